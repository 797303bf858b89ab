//! Frames on a pipe that knows no connections.
//!
//! A virtio-serial port hands over bytes of earlier lives of either side, half frames included, so
//! the receiver must find the next whole frame in anything. The trick is qemu-ga's sentinel: byte
//! `0xff` occurs in no UTF-8 text, hence in no payload, so one seen there means that the sender
//! began anew (QEMU's `guest-sync-delimited` rests on the same).
//!
//! ```text
//!  0        4                12       16      20
//!  ff 4e 46 01 | session nonce | length | crc32 | JSON, 2 to 65,536 bytes without 0xff
//!              └──────── crc32 covers ─────────────────────────┘ (its own field left out)
//! ```
//!
//! Integers are big-endian. Because a payload cannot contain `0xff`, the frames that may begin
//! inside a broken one all lie in its 20 header bytes: five at most. Every byte is therefore looked
//! at a bounded number of times, whatever a hostile sender chooses, and at most one frame is kept.

use std::fmt;

/// Longest payload in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

const SENTINEL: u8 = 0xff;
const MAGIC: [u8; 4] = [SENTINEL, b'N', b'F', 1];
const HEADER_LEN: usize = 20;

/// Tells the frames of one session from those of every other: random, chosen by the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNonce(pub u64);

impl fmt::Debug for SessionNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionNonce({:016x})", self.0)
    }
}

/// One whole frame with a right checksum. What its payload means is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The session it belongs to.
    pub nonce: SessionNonce,
    /// JSON, if the sender is honest.
    pub payload: Vec<u8>,
}

/// A message too long for one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame carries at most {MAX_FRAME} bytes, not {len}")]
pub struct FrameTooLong {
    /// Length of the refused payload in bytes.
    pub len: usize,
}

/// Puts one payload on the wire.
///
/// # Errors
/// When it is longer than [`MAX_FRAME`].
pub fn encode_frame(nonce: SessionNonce, payload: &[u8]) -> Result<Vec<u8>, FrameTooLong> {
    debug_assert!(!payload.contains(&SENTINEL), "a payload is UTF-8");
    let too_long = FrameTooLong { len: payload.len() };
    let length = u32::try_from(payload.len()).map_err(|_| too_long)?;
    if payload.len() > MAX_FRAME {
        return Err(too_long);
    }
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&nonce.0.to_be_bytes());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&checksum(&frame[MAGIC.len()..], payload).to_be_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

fn checksum(nonce_and_length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(nonce_and_length);
    hasher.update(payload);
    hasher.finalize()
}

/// Finds frames in arbitrary bytes. Holds at most one frame.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the bytes not yet disposed of begin in `buffer`.
    head: usize,
    /// Bytes of the current frame known to contain no sentinel in their payload part.
    scanned: usize,
    discarded: u64,
}

/// What the decoder makes of the bytes it holds.
enum Finding {
    /// So many more bytes decide.
    Needs(usize),
    /// The first of them begin no frame.
    Garbage(usize),
    /// A whole frame of so many bytes.
    Whole(usize),
}

impl FrameDecoder {
    /// Consumes bytes from `input` until a frame is whole; `None` once all of them are consumed.
    pub fn next_frame(&mut self, input: &mut &[u8]) -> Option<Frame> {
        loop {
            match self.examine() {
                Finding::Needs(missing) => {
                    if input.is_empty() {
                        self.give_up_room();
                        return None;
                    }
                    self.take(missing, input);
                }
                Finding::Garbage(len) => {
                    self.discarded += len as u64;
                    self.consume(len);
                }
                Finding::Whole(len) => {
                    let frame = Frame {
                        nonce: SessionNonce(read_u64(&self.held()[4..12])),
                        payload: self.held()[HEADER_LEN..len].to_vec(),
                    };
                    self.consume(len);
                    return Some(frame);
                }
            }
        }
    }

    /// Bytes thrown away so far because they were part of no frame.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Bytes held until their frame is whole.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.head
    }

    fn held(&self) -> &[u8] {
        &self.buffer[self.head..]
    }

    fn take(&mut self, missing: usize, input: &mut &[u8]) {
        self.buffer.drain(..self.head);
        self.head = 0;
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.buffer.extend_from_slice(taken);
        *input = rest;
    }

    fn consume(&mut self, len: usize) {
        self.head += len;
        self.scanned = 0;
    }

    /// Frames come together, and rarely: the room for one is not kept for the next time.
    fn give_up_room(&mut self) {
        if self.buffered() == 0 {
            self.buffer = Vec::new();
            self.head = 0;
        }
    }

    fn examine(&mut self) -> Finding {
        let held = self.held();
        let compared = held.len().min(MAGIC.len());
        if held[..compared] != MAGIC[..compared] {
            return Finding::Garbage(self.to_next_sentinel());
        }
        if held.len() < HEADER_LEN {
            return Finding::Needs(HEADER_LEN - held.len());
        }
        let length = read_u32(&held[12..16]);
        match usize::try_from(length) {
            Ok(length) if length <= MAX_FRAME => self.examine_payload(HEADER_LEN + length),
            _ => Finding::Garbage(self.to_next_sentinel()),
        }
    }

    fn examine_payload(&mut self, whole: usize) -> Finding {
        let held = self.held();
        let end = held.len().min(whole);
        let unscanned = self.scanned.max(HEADER_LEN)..end;
        if held[unscanned].contains(&SENTINEL) {
            return Finding::Garbage(self.to_next_sentinel());
        }
        if held.len() < whole {
            let missing = whole - held.len();
            self.scanned = end;
            return Finding::Needs(missing);
        }
        let expected = read_u32(&held[16..HEADER_LEN]);
        if checksum(&held[4..16], &held[HEADER_LEN..whole]) == expected {
            Finding::Whole(whole)
        } else {
            Finding::Garbage(self.to_next_sentinel())
        }
    }

    /// Distance from the start of what is held to the next place where a frame may begin.
    fn to_next_sentinel(&self) -> usize {
        let held = self.held();
        held.iter()
            .skip(1)
            .position(|byte| *byte == SENTINEL)
            .map_or(held.len(), |found| found + 1)
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: SessionNonce = SessionNonce(0x0123_ffff_4567_89ab);

    fn frame(payload: &str) -> Vec<u8> {
        encode_frame(NONCE, payload.as_bytes()).unwrap()
    }

    fn decode_all(decoder: &mut FrameDecoder, mut input: &[u8]) -> Vec<String> {
        std::iter::from_fn(|| decoder.next_frame(&mut input))
            .map(|frame| String::from_utf8(frame.payload).unwrap())
            .collect()
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let mut decoder = FrameDecoder::default();
        let bytes = frame("{\"a\":1}");

        let decoded = decoder.next_frame(&mut bytes.as_slice()).unwrap();

        assert_eq!(decoded.nonce, NONCE);
        assert_eq!(decoded.payload, b"{\"a\":1}");
        assert_eq!(decoder.discarded(), 0);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let longest = "x".repeat(MAX_FRAME);

        assert!(encode_frame(NONCE, longest.as_bytes()).is_ok());
        assert_eq!(
            encode_frame(NONCE, format!("{longest}x").as_bytes()),
            Err(FrameTooLong { len: MAX_FRAME + 1 })
        );
    }

    #[test]
    fn every_half_frame_is_left_behind_as_soon_as_a_new_frame_begins() {
        let stale = frame("{\"stale\":true}");
        for cut in 0..stale.len() {
            let mut decoder = FrameDecoder::default();
            let bytes = [&stale[..cut], &frame("new"), &frame("again")].concat();

            let decoded = decode_all(&mut decoder, &bytes);

            assert_eq!(decoded, ["new", "again"], "cut at {cut}");
        }
    }

    #[test]
    fn a_length_of_four_gigabytes_reserves_nothing() {
        let mut decoder = FrameDecoder::default();
        let mut bytes = frame("x");
        bytes[12..16].copy_from_slice(&u32::MAX.to_be_bytes());

        assert_eq!(decode_all(&mut decoder, &bytes), Vec::<String>::new());
        assert_eq!(decoder.buffered(), 0);
        assert_eq!(decode_all(&mut decoder, &frame("next")), ["next"]);
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_costs_one_frame() {
        let first = frame("first");
        for bit in 0..first.len() * 8 {
            let mut decoder = FrameDecoder::default();
            let mut bytes = first.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.extend(frame("second"));
            bytes.extend(frame("third"));

            let decoded = decode_all(&mut decoder, &bytes);

            assert!(!decoded.contains(&"first".into()), "bit {bit}");
            assert!(decoded.contains(&"third".into()), "bit {bit}: {decoded:?}");
            assert!(decoder.discarded() > 0);
        }
    }

    #[test]
    fn nested_headers_do_not_multiply_the_work() {
        // Each header claims the longest payload; a decoder that re-reads the rest for each of
        // them would look at 64 KiB some 50,000 times per MiB.
        let mut header = frame(&"x".repeat(MAX_FRAME));
        header.truncate(HEADER_LEN);
        let hostile = header.repeat(50_000);
        let mut decoder = FrameDecoder::default();
        let mut input = hostile.as_slice();
        let mut held = 0;

        while !input.is_empty() {
            let (mut chunk, rest) = input.split_at(input.len().min(4096));
            assert_eq!(decoder.next_frame(&mut chunk), None);
            held = held.max(decoder.buffered());
            input = rest;
        }

        assert!(held <= 2 * HEADER_LEN, "{held} bytes held");
    }

    proptest! {
        #[test]
        fn frames_come_out_whatever_the_chunks(
            payloads in prop::collection::vec("[ -~]{0,200}", 0..8),
            cuts in prop::collection::vec(1_usize..300, 1..40),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(payload)).collect();
            let mut decoder = FrameDecoder::default();
            let mut decoded = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle().take(bytes.len()) {
                let (chunk, next) = rest.split_at(rest.len().min(*cut));
                decoded.extend(decode_all(&mut decoder, chunk));
                rest = next;
            }

            prop_assert_eq!(decoded, payloads);
            prop_assert_eq!(decoder.discarded(), 0);
        }

        #[test]
        fn garbage_never_panics_nor_hides_the_frames_behind_it(
            garbage in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(SENTINEL), Just(b'N'), Just(b'F'), Just(1)], 0..2000),
            chunk in 1_usize..500,
        ) {
            let mut decoder = FrameDecoder::default();
            // The second is safe even when the garbage ends in half a header.
            let bytes = [garbage, frame("hidden?"), frame("seen")].concat();
            let decoded: Vec<_> = bytes.chunks(chunk)
                .flat_map(|part| {
                    let mut part = part;
                    std::iter::from_fn(|| decoder.next_frame(&mut part)).collect::<Vec<_>>()
                })
                .collect();

            prop_assert!(decoded.iter().any(|frame| frame.payload == b"seen"));
            prop_assert!(decoder.buffered() <= HEADER_LEN + MAX_FRAME);
        }
    }
}
