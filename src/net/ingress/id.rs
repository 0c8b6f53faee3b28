//! Ids of requests: 128 random bits in hex digits, hard to guess and made without a system call each.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;

use crate::sys::clock;

const BYTES: usize = 16;
/// Ids for which the kernel is asked at once.
const STOCK: usize = 64;

/// A new one.
pub fn new() -> HeaderValue {
    thread_local! {
        static RANDOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    RANDOM.with_borrow_mut(|stock| {
        if stock.len() < BYTES {
            stock.resize(BYTES * STOCK, 0);
            clock::random(stock);
        }
        let rest = stock.len() - BYTES;
        let value = hex(&stock[rest..]);
        stock.truncate(rest);
        value
    })
}

fn hex(bytes: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("hex digits are a header's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_32_digits_and_never_the_same() {
        let ids: std::collections::BTreeSet<String> =
            (0..STOCK * 3).map(|_| new().to_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), STOCK * 3);
        assert!(ids.iter().all(|id| id.len() == 2 * BYTES));
        assert_eq!(hex(&[0x0a, 0xf9]), "0af9");
    }
}
