//! Fixed layouts of message bodies.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }
    };
}

layout! {
    /// Body of `Hello`.
    HelloWire {
        version: U16,
        flags: U16,
        reserved: U32,
        name: [u8; 64],
        len: U64,
        term: U64,
        primary: [u8; 16],
        epoch: U64,
        chain: U32,
        pending_chain: U32,
    }
}

layout! {
    /// Body of `Welcome`.
    WelcomeWire {
        term: U64,
        epoch: U64,
        chain: U32,
        flags: U32,
    }
}

layout! {
    /// Start of the body of `Refused`; text follows.
    RefusedWire {
        code: U16,
        reserved: U16,
        text_len: U32,
        term: U64,
        epoch: U64,
    }
}

layout! {
    /// Start of the body of `Delta`; the encoded delta follows.
    DeltaWire {
        term: U64,
        epoch: U64,
        previous: U32,
        level: u8,
        reserved: [u8; 3],
    }
}

layout! {
    /// Body of `Ack`.
    AckWire {
        epoch: U64,
        level: u8,
        reserved: [u8; 7],
    }
}

layout! {
    /// Body of `ImageBegin`.
    ImageBeginWire {
        term: U64,
        len: U64,
        epoch: U64,
        chain: U32,
        reserved: U32,
    }
}

layout! {
    /// Start of the body of `ImageChunk`; bytes follow.
    ImageChunkWire {
        offset: U64,
    }
}

layout! {
    /// Body of `ImageEnd`.
    ImageEndWire {
        checksum: U32,
        reserved: U32,
    }
}

layout! {
    /// Body of `Promoted`.
    PromotedWire {
        term: U64,
        epoch: U64,
    }
}
