//! What the parser promises, by cases and by arbitrary bytes in arbitrary pieces.

use super::*;
use proptest::prelude::*;

type Command = Vec<Vec<u8>>;

/// Feeds `pieces` as a connection would: unconsumed bytes stay in a buffer.
fn feed<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Command>, Option<ProtocolError>, usize) {
    let (mut parser, mut buffer, mut commands) = (Parser::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match parser.parse(&buffer[at..]) {
                Err(error) => return (commands, Some(error), buffer.len() - at),
                Ok(Step::Incomplete) => {
                    if parser.idle() {
                        at += parser.finish();
                    }
                    break;
                }
                Ok(Step::Ready) => {
                    let args = parser.args(&buffer[at..]);
                    commands.push(args.from(0).map(<[u8]>::to_vec).collect());
                    at += parser.finish();
                }
            }
        }
        buffer.drain(..at);
    }
    (commands, None, buffer.len())
}

fn commands(input: &[u8]) -> Vec<Command> {
    let (commands, error, left) = feed([input]);
    assert_eq!((error, left), (None, 0), "{}", input.escape_ascii());
    commands
}

fn error(input: &[u8]) -> String {
    feed([input]).1.expect("the bytes are refused").to_string()
}

fn command(words: &[&str]) -> Command {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn array_of_bulks_is_a_command() {
    assert_eq!(commands(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"), [command(&["GET", "k"])]);
    assert_eq!(commands(b"*1\r\n$0\r\n\r\n"), [command(&[""])]);
    assert_eq!(
        commands(b"*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nECHO\r\n"),
        [command(&["PING"]), command(&["PING"]), command(&["ECHO"])]
    );
}

#[test]
fn empty_requests_are_stepped_over() {
    assert_eq!(commands(b"\r\n\n*0\r\n*-1\r\nPING\r\n   \r\n"), [command(&["PING"])]);
}

#[test]
fn inline_command_resolves_quotes() {
    assert_eq!(
        commands(b"SET \"a b\" 'c\\'d' e\"\\x41\\n\"\n"),
        [command(&["SET", "a b", "c'd", "eA\n"])]
    );
    assert_eq!(commands(b"ECHO \"\" ''\r\n"), [command(&["ECHO", "", ""])]);
    assert_eq!(error(b"SET \"foo\"bar\r\n"), "unbalanced quotes in request");
    assert_eq!(error(b"SET 'foo\r\n"), "unbalanced quotes in request");
}

#[test]
fn refuses_with_the_texts_of_redis() {
    for length in ["-1", "9223372036854775808", "9223372036854775807", "536870913", "x", ""] {
        assert_eq!(error(format!("*1\r\n${length}\r\n").as_bytes()), "invalid bulk length");
    }
    for count in ["1048577", "9223372036854775808", "+1", " 1", ""] {
        assert_eq!(error(format!("*{count}\r\n").as_bytes()), "invalid multibulk length");
    }
    assert_eq!(error(b"*1\r\n:1\r\n"), "expected '$', got ':'");
    assert_eq!(error(b"*1\r\n$1\r\nabc"), "expected CRLF");
    assert_eq!(error(b"*1\n"), "expected CRLF");
    assert_eq!(error(&[b'a'; INLINE_BYTES_MAX + 1]), "too big inline request");
    let long = |start: &[u8]| [start, &[b'1'; INLINE_BYTES_MAX + 1]].concat();
    assert_eq!(error(&long(b"*")), "too big mbulk count string");
    assert_eq!(error(&long(b"*1\r\n$")), "too big bulk count string");
}

#[test]
fn declared_lengths_allocate_nothing() {
    let mut parser = Parser::new();
    assert_eq!(parser.parse(b"*1048576\r\n$536870912\r\nabc"), Ok(Step::Incomplete));
    assert!(parser.spans.capacity() <= 4 && parser.unquoted.capacity() == 0);
}

#[test]
fn request_beyond_a_gibibyte_is_refused_by_its_header() {
    let at = REQUEST_BYTES_MAX as usize - 100;
    let parser = Parser { at, ..Parser::new() };
    assert_eq!(parser.check_request(100), Ok(()));
    assert_eq!(parser.check_request(101), Err(ProtocolError::RequestTooBig));
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.push(0);
    places.push(bytes.len());
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes with enough of RESP in them to get past the first check.
fn almost_resp() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\\x".to_vec()),
        Just(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".to_vec()),
        (-2i64..6).prop_map(|number| number.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

fn encode(command: &Command) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        feed([&bytes[..]]);
    }

    #[test]
    fn cuts_do_not_change_what_is_read(
        bytes in almost_resp(),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = feed([&bytes[..]]);
        let pieces = feed(cut(&bytes, &cuts));
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.1, pieces.1);
    }

    #[test]
    fn what_is_sent_is_what_is_read(
        sent in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6), 0..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(encode).collect();
        let (got, error, left) = feed(cut(&bytes, &cuts));
        prop_assert_eq!((error, left), (None, 0));
        prop_assert_eq!(got, sent);
    }
}

#[test]
fn headers_of_every_length_are_read_alike() {
    let read = |line: &str| {
        let header = header(line.as_bytes(), ProtocolError::BulkCountTooBig);
        header.map(|header| header.map(|header| (header.value, header.bytes)))
    };
    for value in 0..=1_001 {
        let line = format!("${value}\r\n");
        assert_eq!(read(&format!("{line}rest")), Ok(Some((Some(value), line.len()))));
        assert_eq!(read(line.trim_end()), Ok(None), "not whole yet");
    }
    for (text, value) in [("-1", Some(-1)), ("00", None), ("05", None), ("1a", None), ("", None)] {
        assert_eq!(read(&format!("${text}\r\n")), Ok(Some((value, text.len() + 3))), "{text}");
    }
    for line in ["$5\n", "$12\n", "$1\rx\n"] {
        assert_eq!(read(line), Err(ProtocolError::ExpectedLineEnd), "{line:?}");
    }
}
