//! Lines that end as an HTTP request line does: a server never executes one, a client quotes them.

/// Returns true if a line that ends with these bytes would be taken for HTTP.
pub(super) fn is_http(bytes: &[u8]) -> bool {
    const VERSION_LEN: usize = b"HTTP/1.1".len();
    ends_in_http(bytes) || bytes.len() == VERSION_LEN && ends_in_http(&[b" ", bytes].concat())
}

/// Returns true if a line ends as the first line of an HTTP request does.
///
/// Such a line may read like a command, and so may the lines behind it, which a browser was tricked
/// into posting. So no line that ends like this is executed, and a key or value that legally ends
/// like this is written in quotes.
pub(super) fn ends_in_http(line: &[u8]) -> bool {
    matches!(line, [.., b'.', b'0'..=b'9'])
        && matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', major, _, _] if major.is_ascii_digit())
}
