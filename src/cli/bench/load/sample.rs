//! The ops of the tables: each puts a JSON object of 200 bytes.

use crate::clock::Clock;
use crate::random::Random;
use std::fmt::Write;

/// Bytes of the object an op puts.
const VALUE_BYTES: usize = 200;

/// Which documents are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Any of them, again and again
    Random,
    /// One after the other, from the first
    Each,
}

pub struct Sample {
    state: u64,
    documents: u64,
    order: Order,
    written: u64,
}

impl Sample {
    pub fn new(documents: u64, order: Order) -> Self {
        Self { state: Random::system().uuid().as_u64_pair().1, documents, order, written: 0 }
    }

    /// SplitMix64: what is written need not be secret.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next document's.
    pub fn number(&mut self) -> u64 {
        self.written += 1;
        match self.order {
            Order::Random => self.next() % self.documents,
            Order::Each => (self.written - 1) % self.documents,
        }
    }

    /// A batch of so many ops, and the document of its first.
    pub fn batch(&mut self, ops: usize) -> (String, String) {
        let mut out = String::with_capacity(ops * 340 + 20);
        let mut first = String::new();
        out.push_str("{\"ops\":[");
        for at in 0..ops {
            let number = self.number();
            let doc = doc(number);
            out.push_str(if at == 0 { "" } else { "," });
            self.op(&doc, number, &mut out);
            if at == 0 {
                first = doc;
            }
        }
        out.push_str("]}");
        (out, first)
    }

    fn op(&mut self, doc: &str, number: u64, out: &mut String) {
        let now = Clock::system().now() as u64;
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next().to_le_bytes());
        random[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        let id = uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid();
        let _ = write!(out, "{{\"id\":\"{id}\",\"doc\":\"{doc}\",\"type\":\"put\",\"value\":");
        let start = out.len();
        let quantity = self.next() % 10_000;
        let _ = write!(out, "{{\"title\":\"Item {number:08}\",\"quantity\":{quantity},\"done\":false,\"note\":\"");
        while out.len() - start < VALUE_BYTES - 2 {
            let letters = self.next();
            let room = VALUE_BYTES - 2 - (out.len() - start);
            out.extend((0..room.min(12)).map(|at| char::from(b'a' + (letters >> (at * 5) & 0xf) as u8)));
        }
        out.push_str("\"}}");
    }
}

/// The document of a number.
pub fn doc(number: u64) -> String {
    format!("items/{number:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_puts_an_object_of_200_bytes() {
        let (batch, first) = Sample::new(100, Order::Each).batch(300);
        let batch: serde_json::Value = serde_json::from_str(&batch).unwrap();
        let ops = batch["ops"].as_array().unwrap();
        assert_eq!((ops.len(), first.as_str(), &ops[299]["doc"]), (300, "items/00000000", &"items/00000099".into()));
        for op in ops {
            assert_eq!(serde_json::to_string(&op["value"]).unwrap().len(), VALUE_BYTES);
        }
    }
}
