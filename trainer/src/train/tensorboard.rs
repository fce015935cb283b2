//! Scalars in TensorBoard's event files.
//!
//! A file is a sequence of records (length, its masked CRC-32C, bytes, their masked CRC-32C), each a protocol buffer `Event`
//! with a time, a step and named values. Only what scalars need is written.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// A file of events, for appending.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// Starts a new file in a folder, named after the time in seconds and this process, as TensorBoard expects.
    pub fn create(folder: &Path, seconds: f64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("events.out.tfevents.{seconds:.0}.sealign.{}", std::process::id());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name))?;
        let mut events = Self { file };
        let mut event = double_field(1, seconds);
        event.extend(bytes_field(3, b"brain.Event:2"));
        events.write(&event)?;
        Ok(events)
    }

    /// Appends the values of one step.
    pub fn scalars<'name>(
        &mut self,
        seconds: f64,
        step: u64,
        values: impl Iterator<Item = (&'name str, f64)>,
    ) -> std::io::Result<()> {
        let mut summary = Vec::new();
        for (name, value) in values {
            let mut entry = bytes_field(1, name.as_bytes());
            #[expect(clippy::cast_possible_truncation, reason = "the format holds single precision")]
            entry.extend(float_field(2, value as f32));
            summary.extend(bytes_field(1, &entry));
        }
        let mut event = double_field(1, seconds);
        event.push(2 << 3);
        event.extend(varint(step));
        event.extend(bytes_field(5, &summary));
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> std::io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc(event).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f).to_le_bytes().first().copied().unwrap_or(0);
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    field.extend(varint(bytes.len() as u64));
    field.extend(bytes);
    field
}

fn double_field(number: u8, value: f64) -> Vec<u8> {
    let mut field = vec![number << 3 | 1];
    field.extend(value.to_le_bytes());
    field
}

fn float_field(number: u8, value: f32) -> Vec<u8> {
    let mut field = vec![number << 3 | 5];
    field.extend(value.to_le_bytes());
    field
}

/// CRC-32C (Castagnoli), bit by bit: records are short.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// The format masks its checksums, so that a checksum of bytes that hold checksums stays sound.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_published_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn numbers_have_their_wire_form() {
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(0), [0]);
        assert_eq!(bytes_field(5, b"ab"), [0x2a, 2, b'a', b'b']);
    }
}
