//! Every size that a client controls has its limit here, with its reason.

/// Longest key or value in bytes. Bounds how much of the area one command can
/// take, and how large one reply can be.
pub(crate) const MAX_BULK: usize = 512 << 10;

/// Most arguments in one request, the command's name included. Bounds the
/// table of arguments that a connection keeps (8 bytes each).
pub(crate) const MAX_ARGS: usize = 64 << 10;

/// Longest request in bytes. Bounds the input buffer of a connection.
pub(crate) const MAX_REQUEST: usize = 8 << 20;

/// Longest line of an inline command in bytes.
pub(crate) const MAX_INLINE: usize = 64 << 10;

/// Longest `*count` or `$length` line in bytes, line end included: a sign and
/// 20 digits is the longest number anybody means.
pub(crate) const MAX_HEADER: usize = 32;

/// Longest single reply in bytes; a command whose reply would be longer is
/// refused. Bounds what `MGET` and `KEYS` can make us allocate.
pub(crate) const MAX_REPLY: usize = 32 << 20;

/// Unsent replies in bytes beyond which a connection's further requests wait:
/// a client that does not read slows only itself down.
pub(crate) const OUTPUT_PAUSE: usize = 1 << 20;

/// Bytes read from one connection in one turn, so that a client with a long
/// pipeline does not keep the others waiting.
pub(crate) const READ_PER_TURN: usize = 256 << 10;

/// Bytes read from all connections in one turn. Bounds how long the first
/// client of a turn waits for its commit.
pub(crate) const READ_PER_TURN_ALL: usize = 16 << 20;

/// Longest name that `CLIENT SETNAME` takes, in bytes.
pub(crate) const MAX_CLIENT_NAME: usize = 128;
