//! Randomness, handed in like the clock, so that a simulation can replay it from a seed.

use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Makes 128 random bits at a time.
#[derive(Clone)]
pub struct Random(Source);

type Draw = dyn FnMut() -> [u8; 16] + Send;

#[derive(Clone)]
enum Source {
    System,
    From(Arc<Mutex<Box<Draw>>>),
}

impl Random {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Draws from the caller's own generator.
    pub fn from_fn(draw: impl FnMut() -> [u8; 16] + Send + 'static) -> Self {
        Self(Source::From(Arc::new(Mutex::new(Box::new(draw)))))
    }

    pub fn bytes(&self) -> [u8; 16] {
        match &self.0 {
            Source::System => Uuid::new_v4().into_bytes(),
            Source::From(draw) => draw.lock().unwrap_or_else(std::sync::PoisonError::into_inner)(),
        }
    }

    /// 64 bits of them.
    pub fn number(&self) -> i64 {
        Uuid::from_bytes(self.bytes()).as_u64_pair().1 as i64
    }

    pub fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.bytes()).into_uuid()
    }
}
