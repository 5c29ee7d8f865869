use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// All requests in `bytes`, which arrive in pieces of the sizes given (and then
/// the rest), and the error that ended it.
fn parse(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let mut buffer = RequestBuffer::new();
    let mut requests = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter();
    while !rest.is_empty() {
        let len = pieces.next().map_or(rest.len(), |&len| len.min(rest.len()));
        buffer.push(&rest[..len]);
        rest = &rest[len..];
        loop {
            match buffer.next() {
                Ok(Some(request)) => {
                    requests.push(request.from(0).map(<[u8]>::to_vec).collect());
                }
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn encode(request: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for arg in request {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn error_of(bytes: &[u8]) -> Option<ProtocolError> {
    parse(bytes, &[]).1
}

#[test]
fn arrays_and_inline_commands_may_alternate() {
    let (requests, error) = parse(
        b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\n*0\r\n*-1\r\nECHO hi\n",
        &[],
    );
    assert_eq!(error, None);
    assert_eq!(
        requests,
        [
            vec![b"PING".to_vec()],
            vec![b"GET".to_vec(), b"k".to_vec()],
            vec![b"ECHO".to_vec(), b"hi".to_vec()]
        ]
    );
}

#[test]
fn what_is_no_request_is_named() {
    assert_eq!(error_of(b"*x\r\n"), Some(ProtocolError::BadCount));
    assert_eq!(error_of(b"*01\r\n"), Some(ProtocolError::BadCount));
    assert_eq!(error_of(b"*1\r\nGET\r\n"), Some(ProtocolError::NoDollar));
    assert_eq!(error_of(b"*1\r\n$-1\r\n"), Some(ProtocolError::BadLength));
    assert_eq!(
        error_of(b"*1\r\n$4\r\nPINGxx"),
        Some(ProtocolError::NoLineEnd)
    );
    assert_eq!(error_of(b"SET 'a\r\n"), Some(ProtocolError::Quotes));
}

#[test]
fn sizes_beyond_the_limits_are_refused_before_their_bytes_arrive() {
    let count = format!("*{}\r\n", MAX_ARGS + 1);
    assert_eq!(error_of(count.as_bytes()), Some(ProtocolError::BadCount));
    let bulk = format!("*1\r\n${}\r\n", MAX_BULK + 1);
    assert_eq!(error_of(bulk.as_bytes()), Some(ProtocolError::BadLength));
    assert_eq!(
        error_of(&vec![b'a'; MAX_INLINE + 1]),
        Some(ProtocolError::LongInline)
    );
    let endless = [&b"*"[..], &[b'1'; 64]].concat();
    assert_eq!(error_of(&endless), Some(ProtocolError::BadCount));
}

#[test]
fn a_request_of_many_large_arguments_is_refused_at_the_limit() {
    let mut bytes = format!("*{MAX_ARGS}\r\n").into_bytes();
    for _ in 0..=MAX_REQUEST / MAX_BULK {
        bytes.extend_from_slice(format!("${MAX_BULK}\r\n").as_bytes());
        bytes.resize(bytes.len() + MAX_BULK, b'x');
        bytes.extend_from_slice(b"\r\n");
    }
    assert_eq!(error_of(&bytes), Some(ProtocolError::LongRequest));
}

#[test]
fn a_large_request_leaves_no_large_buffer_behind() {
    let mut buffer = RequestBuffer::new();
    buffer.push(&encode(&[vec![b'x'; MAX_BULK]]));
    assert!(buffer.next().unwrap().is_some());
    buffer.push(b"P");
    assert!(buffer.bytes.capacity() <= 2 * KEEP_CAPACITY);
}

#[test]
fn numbers_are_spelled_one_way_only() {
    for (text, value) in [("0", 0), ("7", 7), ("-9223372036854775808", i64::MIN)] {
        assert_eq!(number(text.as_bytes()), Some(value));
    }
    for bad in ["", "-", "+1", "01", "-0", " 1", "1 ", "9223372036854775808"] {
        assert_eq!(number(bad.as_bytes()), None, "{bad:?}");
    }
}

/// A request that is mostly sound, sometimes with a byte changed.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let request = vec(vec(any::<u8>(), 0..20), 1..5).prop_map(|r| encode(&r));
    let inline = "[A-Z]{1,5}( [a-z\"']{0,4}){0,3}\r\n".prop_map(String::into_bytes);
    let noise = vec(any::<u8>(), 0..12);
    let sound = vec(prop_oneof![8 => request, 4 => inline, 1 => noise], 0..8);
    (sound, any::<prop::sample::Index>(), any::<u8>(), 0..4).prop_map(
        |(parts, at, byte, damage)| {
            let mut bytes = parts.concat();
            if damage == 0 && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_pieces_in_which_bytes_arrive_make_no_difference(
        bytes in stream(),
        pieces in vec(1..9usize, 0..100),
    ) {
        prop_assert_eq!(parse(&bytes, &[]), parse(&bytes, &pieces));
    }

    #[test]
    fn what_was_encoded_comes_back(requests in vec(vec(vec(any::<u8>(), 0..40), 1..6), 0..6)) {
        let bytes: Vec<u8> = requests.iter().flat_map(|r| encode(r)).collect();
        prop_assert_eq!(parse(&bytes, &[]), (requests, None));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), pieces in vec(1..50usize, 0..10)) {
        let _ = parse(&bytes, &pieces);
    }
}
