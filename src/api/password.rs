//! Passwords: slow to compare on purpose, so never on a thread that serves clients.

use super::errors::status;
use crate::node::NodeHandle;
use bytes::Bytes;
use tonic::Status;

/// What bcrypt takes; more would be cut off unseen.
const PASSWORD_BYTES_MAX: usize = 72;

/// A hash with a salt of its own, in bcrypt's text form.
pub async fn hash(node: &NodeHandle, password: String, cost: u32) -> Result<Bytes, Status> {
    if password.len() > PASSWORD_BYTES_MAX {
        // The words of the library that etcd uses.
        return Err(Status::unknown("bcrypt: password length exceeds 72 bytes"));
    }
    let salt: [u8; 16] = node.random_bytes();
    let hashed = node
        .compute("password", move || bcrypt::hash_with_salt(password, cost, salt))
        .await
        .map_err(|error| status(&error))?;
    match hashed {
        Ok(parts) => Ok(Bytes::from(parts.format_for_version(bcrypt::Version::TwoA))),
        Err(error) => Err(Status::internal(format!("the password cannot be hashed: {error}"))),
    }
}

/// Whether a password is the one that was hashed.
pub async fn is_right(node: &NodeHandle, password: String, hash: Bytes) -> Result<bool, Status> {
    let compare = move || {
        let hash = std::str::from_utf8(&hash).ok()?;
        bcrypt::verify(password, hash).ok()
    };
    let right = node.compute("password", compare).await.map_err(|error| status(&error))?;
    Ok(right.unwrap_or(false))
}
