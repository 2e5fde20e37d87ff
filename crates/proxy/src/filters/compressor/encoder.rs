//! The libraries behind one interface: bytes in, whatever is ready out.

use std::io::{self, Write};

use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use flate2::{Compress, Compression, FlushCompress, Status};
use lateen_dataplane::filters::compressor::{BrotliMode, Library};
use zstd::stream::raw::CParameter;
use zstd::zstd_safe::Strategy;

/// A body being encoded.
pub enum Encoder {
    Gzip(Compress),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Bytes of a buffer that the library fills.
const PIECE: usize = 4096;

impl Encoder {
    pub fn new(library: &Library) -> io::Result<Self> {
        Ok(match library {
            Library::Gzip { level, window_bits } => {
                Self::Gzip(Compress::new_gzip(Compression::new(*level), *window_bits))
            }
            Library::Brotli { quality, window_bits, block_bits, mode, plain_literals } => {
                let parameters = BrotliEncoderParams {
                    quality: i32::try_from(*quality).unwrap_or(11),
                    lgwin: i32::from(*window_bits),
                    lgblock: i32::from(*block_bits),
                    mode: match mode {
                        BrotliMode::Generic => BrotliEncoderMode::BROTLI_MODE_GENERIC,
                        BrotliMode::Text => BrotliEncoderMode::BROTLI_MODE_TEXT,
                        BrotliMode::Font => BrotliEncoderMode::BROTLI_MODE_FONT,
                    },
                    disable_literal_context_modeling: i32::from(*plain_literals),
                    ..BrotliEncoderParams::default()
                };
                Self::Brotli(Box::new(brotli::CompressorWriter::with_params(Vec::new(), PIECE, &parameters)))
            }
            Library::Zstd { level, checksum, strategy } => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), *level)?;
                encoder.include_checksum(*checksum)?;
                if let Some(strategy) = zstd_strategy(*strategy) {
                    encoder.set_parameter(CParameter::Strategy(strategy))?;
                }
                Self::Zstd(encoder)
            }
        })
    }

    /// Encodes a part so that who reads what came out can read all of it.
    pub fn flushed(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => gzip(encoder, chunk, FlushCompress::Sync),
            Self::Brotli(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// The end of the encoded body.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(mut encoder) => gzip(&mut encoder, &[], FlushCompress::Finish),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn gzip(encoder: &mut Compress, mut chunk: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(PIECE);
    loop {
        let before = encoder.total_in();
        let status = encoder.compress_vec(chunk, &mut out, flush).map_err(io::Error::other)?;
        let taken = usize::try_from(encoder.total_in() - before).map_err(io::Error::other)?;
        chunk = &chunk[taken..];
        // Room that was left over means that there is no more to come.
        if status == Status::StreamEnd || chunk.is_empty() && out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(PIECE);
    }
}

fn zstd_strategy(number: u32) -> Option<Strategy> {
    Some(match number {
        1 => Strategy::ZSTD_fast,
        2 => Strategy::ZSTD_dfast,
        3 => Strategy::ZSTD_greedy,
        4 => Strategy::ZSTD_lazy,
        5 => Strategy::ZSTD_lazy2,
        6 => Strategy::ZSTD_btlazy2,
        7 => Strategy::ZSTD_btopt,
        8 => Strategy::ZSTD_btultra,
        9 => Strategy::ZSTD_btultra2,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decode(library: &Library, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match library {
            Library::Gzip { .. } => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap(),
            Library::Brotli { .. } => brotli::Decompressor::new(bytes, PIECE).read_to_end(&mut out).unwrap(),
            Library::Zstd { .. } => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap(),
        };
        out
    }

    #[test]
    fn what_was_encoded_can_be_read_again() {
        let brotli = |quality, mode, plain_literals| Library::Brotli {
            quality,
            window_bits: 18,
            block_bits: 16,
            mode,
            plain_literals,
        };
        let rows = [
            ("gzip", Library::Gzip { level: 6, window_bits: 12 }),
            ("gzip, smallest window", Library::Gzip { level: 1, window_bits: 9 }),
            ("gzip, largest window", Library::Gzip { level: 9, window_bits: 15 }),
            ("brotli", brotli(3, BrotliMode::Generic, false)),
            ("brotli, text", brotli(11, BrotliMode::Text, true)),
            ("brotli, font", brotli(0, BrotliMode::Font, false)),
            ("zstd", Library::Zstd { level: 3, checksum: false, strategy: 0 }),
            ("zstd, checked", Library::Zstd { level: 0, checksum: true, strategy: 9 }),
        ];
        let noise: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let text = b"to be or not to be, that is the question; ".repeat(200);
        let bodies: [&[&[u8]]; 5] = [&[], &[b""], &[b"short"], &[&text, b"", &text], &[&noise, b"end"]];
        for (name, library) in rows {
            for chunks in bodies {
                let mut encoder = Encoder::new(&library).unwrap();
                let mut encoded = Vec::new();
                for chunk in chunks {
                    encoded.extend(encoder.flushed(chunk).unwrap());
                }
                encoded.extend(encoder.finish().unwrap());
                assert_eq!(decode(&library, &encoded), chunks.concat(), "{name}");
            }
        }
    }

    #[test]
    fn a_part_can_be_read_before_the_end() {
        let mut encoder = Encoder::new(&Library::Gzip { level: 6, window_bits: 12 }).unwrap();
        let encoded = encoder.flushed(b"now").unwrap();
        let mut out = [0; 3];
        flate2::read::GzDecoder::new(&encoded[..]).read_exact(&mut out).unwrap();
        assert_eq!(&out, b"now");
    }
}
