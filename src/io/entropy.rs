//! Where random numbers come from: the seeds of everything below the async shell are drawn here.

pub trait Entropy: Send + Sync {
    /// 64 bits that nobody can foresee.
    fn u64(&self) -> u64;
}
