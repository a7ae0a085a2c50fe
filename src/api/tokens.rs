//! What a client shows to be told apart: tokens that members remember, or tokens that are signed.
//!
//! A signed token (JWT) says who it stands for, until when, and under which revision of users and
//! roles it was made; any member tells it by the key. Claims and methods are etcd's. Files are
//! read by whoever starts the server.

use crate::types::auth::Caller;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};

/// How clients are told apart, as the operator wants it.
pub struct AuthOptions {
    pub tokens: TokenKind,
    /// The work that a password costs: 2^n rounds.
    pub bcrypt_cost: u32,
}

pub enum TokenKind {
    /// Remembered by every member until it has not been used for a while.
    Simple,
    Signed(Box<Jwt>),
}

impl Default for AuthOptions {
    fn default() -> AuthOptions {
        AuthOptions { tokens: TokenKind::Simple, bcrypt_cost: 10 }
    }
}

/// Signs and checks tokens.
pub struct Jwt {
    method: Algorithm,
    /// `None` where tokens are only checked: somebody else signs them.
    signing: Option<EncodingKey>,
    checking: DecodingKey,
    ttl_ms: u64,
}

/// Why the options for signed tokens make no sense.
pub type KeyError = String;

impl Jwt {
    /// `method` is a JWT algorithm by name; keys are the contents of PEM files, or the secret
    /// itself for the HS methods (then only `private` counts).
    pub fn new(
        method: &str,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
        ttl_ms: u64,
    ) -> Result<Jwt, KeyError> {
        let unknown = || format!("sign-method={method} is not known: say RS256, ES256, EdDSA, ...");
        let algorithm = match method {
            "RS256" => Algorithm::RS256,
            "RS384" => Algorithm::RS384,
            "RS512" => Algorithm::RS512,
            "PS256" => Algorithm::PS256,
            "PS384" => Algorithm::PS384,
            "PS512" => Algorithm::PS512,
            "ES256" => Algorithm::ES256,
            "ES384" => Algorithm::ES384,
            "EdDSA" => Algorithm::EdDSA,
            "HS256" => Algorithm::HS256,
            "HS384" => Algorithm::HS384,
            "HS512" => Algorithm::HS512,
            "ES512" => return Err("sign-method=ES512 is not available: use ES384".into()),
            _ => return Err(unknown()),
        };
        type Reads<T> = fn(&[u8]) -> jsonwebtoken::errors::Result<T>;
        let (sign, check): (Reads<EncodingKey>, Reads<DecodingKey>) = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let secret = private.ok_or("priv-key is needed: the file with the secret")?;
                return Ok(Jwt {
                    method: algorithm,
                    signing: Some(EncodingKey::from_secret(secret)),
                    checking: DecodingKey::from_secret(secret),
                    ttl_ms,
                });
            }
            Algorithm::ES256 | Algorithm::ES384 => {
                (EncodingKey::from_ec_pem, DecodingKey::from_ec_pem)
            }
            Algorithm::EdDSA => (EncodingKey::from_ed_pem, DecodingKey::from_ed_pem),
            _ => (EncodingKey::from_rsa_pem, DecodingKey::from_rsa_pem),
        };
        let wrong = |which: &str, error| format!("{which} is no key for {method}: {error}");
        let public = public.ok_or("pub-key is needed, to check tokens with")?;
        Ok(Jwt {
            method: algorithm,
            signing: private.map(sign).transpose().map_err(|error| wrong("priv-key", error))?,
            checking: check(public).map_err(|error| wrong("pub-key", error))?,
            ttl_ms,
        })
    }

    /// A token for a user whose password was right. `None` where nothing is signed.
    pub fn sign(&self, caller: &Caller, now_ms: u64) -> Option<String> {
        let claims = json!({
            "username": caller.user,
            "revision": caller.auth_revision,
            "exp": now_ms.saturating_add(self.ttl_ms) / 1000,
        });
        jsonwebtoken::encode(&Header::new(self.method), &claims, self.signing.as_ref()?).ok()
    }

    /// Whom a token stands for; `None` for one that is not ours, was changed, or has run out.
    pub fn check(&self, token: &str, now_ms: u64) -> Option<Caller> {
        let mut rules = Validation::new(self.method);
        rules.required_spec_claims.clear();
        // Against the member's clock, below.
        rules.validate_exp = false;
        rules.validate_aud = false;
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &self.checking, &rules);
        let claims = token.ok()?.claims;
        if let Some(end) = claims.get("exp")
            && end.as_f64()? <= now_ms as f64 / 1000.0
        {
            return None;
        }
        Some(Caller {
            user: claims.get("username")?.as_str()?.to_owned(),
            auth_revision: claims.get("revision")?.as_u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Jwt {
        Jwt::new("HS256", Some(b"a secret of some length"), None, 60_000).expect("options")
    }

    fn alice() -> Caller {
        Caller { user: "alice".into(), auth_revision: 7 }
    }

    #[test]
    fn a_token_stands_for_its_user_until_it_runs_out() {
        let jwt = secret();
        let token = jwt.sign(&alice(), 1_000_000).expect("it signs");
        assert_eq!(jwt.check(&token, 1_000_000), Some(alice()));
        assert_eq!(jwt.check(&token, 1_059_999), Some(alice()));
        assert_eq!(jwt.check(&token, 1_060_000), None);
    }

    #[test]
    fn another_key_or_method_is_refused() {
        let token = secret().sign(&alice(), 0).expect("it signs");
        let other = Jwt::new("HS256", Some(b"another secret"), None, 60_000).expect("options");
        let method =
            Jwt::new("HS384", Some(b"a secret of some length"), None, 60_000).expect("options");
        assert_eq!((other.check(&token, 0), method.check(&token, 0)), (None, None));
        for changed in ["", "a.b", "a.b.c", &token[1..], &format!("{token}x")] {
            assert_eq!(secret().check(changed, 0), None, "{changed:?}");
        }
    }

    #[test]
    fn options_that_cannot_work_say_why() {
        let error = |method, private: Option<&[u8]>, public: Option<&[u8]>| {
            Jwt::new(method, private, public, 1).err().expect("refused")
        };
        assert!(error("none", None, None).contains("not known"));
        assert!(error("RS256", None, None).contains("pub-key is needed"));
        assert!(error("ES256", None, Some(b"no key")).contains("pub-key is no key for ES256"));
        assert!(error("HS256", None, Some(b"x")).contains("priv-key is needed"));
    }
}
