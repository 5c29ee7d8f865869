//! Whole images: to a new primary, or to a target that is behind.

use crate::message::{Message, Position};
use afterimage_delta::{Image, Term, checksum, zeros};

/// Bytes of an image in one message.
pub(crate) const CHUNK: usize = 256 << 10;

/// What is wrong with an image that arrives; nothing of it is used then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Another length than the area's.
    #[error("an image of {len} bytes was announced for an area of {expected}")]
    Length {
        /// The announced length in bytes.
        len: u64,
        /// The area's length in bytes.
        expected: u64,
    },
    /// There is not that much memory.
    #[error("no memory for an image of {len} bytes")]
    Memory {
        /// The length in bytes.
        len: u64,
    },
    /// A chunk is outside the image, empty, or does not follow the one before.
    #[error("an image chunk of {len} bytes at {offset} does not follow")]
    Chunk {
        /// Where, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: usize,
    },
    /// The image is not what was sent.
    #[error("the image's checksum is {computed:08x}, {announced:08x} was announced")]
    Checksum {
        /// What was announced.
        announced: u32,
        /// What the bytes give.
        computed: u32,
    },
}

/// Calls `send` with each message that carries an image; chunks of zeros are
/// left out.
///
/// # Errors
/// The first error of `send`.
pub fn send_image<E>(
    image: &Image,
    term: Term,
    mut send: impl FnMut(&Message) -> Result<(), E>,
) -> Result<(), E> {
    send(&Message::ImageBegin {
        term,
        len: image.len(),
        position: Position {
            epoch: image.epoch(),
            chain: image.chain(),
        },
    })?;
    let mut offset = 0;
    for chunk in image.bytes().chunks(CHUNK) {
        if chunk.iter().any(|&b| b != 0) {
            send(&Message::ImageChunk {
                offset,
                bytes: chunk.to_vec(),
            })?;
        }
        offset += chunk.len() as u64;
    }
    send(&Message::ImageEnd {
        checksum: checksum(image.bytes()),
    })
}

/// Puts an image together.
#[derive(Debug)]
pub struct ImageReceiver {
    bytes: Vec<u8>,
    filled: u64,
    position: Position,
}

impl ImageReceiver {
    /// Begins, given what was announced and what the area's length really is.
    ///
    /// # Errors
    /// [`TransferError::Length`].
    pub fn new(len: u64, expected: u64, position: Position) -> Result<Self, TransferError> {
        if len != expected {
            return Err(TransferError::Length { len, expected });
        }
        Ok(Self {
            bytes: zeros(len).map_err(|_| TransferError::Memory { len })?,
            filled: 0,
            position,
        })
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// [`TransferError::Chunk`].
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TransferError> {
        let error = TransferError::Chunk {
            offset,
            len: bytes.len(),
        };
        let start = usize::try_from(offset).map_err(|_| error)?;
        let end = start.checked_add(bytes.len()).ok_or(error)?;
        if bytes.is_empty() || offset < self.filled {
            return Err(error);
        }
        self.bytes
            .get_mut(start..end)
            .ok_or(error)?
            .copy_from_slice(bytes);
        self.filled = end as u64;
        Ok(())
    }

    /// Ends: the whole image, if it is what was sent.
    ///
    /// # Errors
    /// [`TransferError::Checksum`] or [`TransferError::Length`].
    pub fn finish(self, announced: u32) -> Result<Image, TransferError> {
        let computed = checksum(&self.bytes);
        if computed != announced {
            return Err(TransferError::Checksum {
                announced,
                computed,
            });
        }
        let len = self.bytes.len() as u64;
        Image::from_parts(self.bytes, self.position.epoch, self.position.chain)
            .map_err(|_| TransferError::Length { len, expected: len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_delta::{Chain, Epoch};

    fn image() -> Image {
        let mut bytes = vec![0; 4 * CHUNK];
        bytes[5] = 1;
        bytes[3 * CHUNK + 7] = 2;
        Image::from_parts(bytes, Epoch(4), Chain(5)).unwrap()
    }

    fn messages(image: &Image) -> Vec<Message> {
        let mut list = Vec::new();
        send_image(image, Term(1), |m| {
            list.push(m.clone());
            Ok::<_, ()>(())
        })
        .unwrap();
        list
    }

    fn receive(list: &[Message]) -> Result<Image, TransferError> {
        let mut receiver = None;
        for message in list {
            match message {
                Message::ImageBegin { len, position, .. } => {
                    receiver = Some(ImageReceiver::new(*len, 4 * CHUNK as u64, *position)?);
                }
                Message::ImageChunk { offset, bytes } => {
                    receiver.as_mut().unwrap().chunk(*offset, bytes)?;
                }
                Message::ImageEnd { checksum } => return receiver.unwrap().finish(*checksum),
                _ => unreachable!(),
            }
        }
        unreachable!()
    }

    #[test]
    fn an_image_arrives_without_its_zeros() {
        let list = messages(&image());
        assert_eq!(list.len(), 4);
        assert_eq!(receive(&list).unwrap(), image());
    }

    #[test]
    fn a_missing_repeated_or_misplaced_chunk_is_found() {
        let list = messages(&image());
        let without = [list[0].clone(), list[1].clone(), list[3].clone()];
        assert!(matches!(
            receive(&without),
            Err(TransferError::Checksum { .. })
        ));
        let repeated = [
            list[0].clone(),
            list[1].clone(),
            list[1].clone(),
            list[3].clone(),
        ];
        assert!(matches!(
            receive(&repeated),
            Err(TransferError::Chunk { .. })
        ));
        let outside = Message::ImageChunk {
            offset: u64::MAX,
            bytes: vec![1],
        };
        let outside = [list[0].clone(), outside, list[3].clone()];
        assert!(matches!(
            receive(&outside),
            Err(TransferError::Chunk { .. })
        ));
    }
}
