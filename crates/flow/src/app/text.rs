//! Bytes of strangers as text.

/// Bytes of a server name that are kept, the last ones.
pub const MAX_SERVER_NAME: usize = 79;

/// Bytes of a user agent that are kept.
pub(super) const MAX_USER_AGENT: usize = 255;

/// The characters in `bytes`; what is not UTF-8 is left out.
pub(super) fn utf8(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.utf8_chunks().map(|chunk| chunk.valid()).collect(),
    }
}

/// At most the first `limit` bytes of `bytes` as text.
pub(super) fn head(bytes: &[u8], limit: usize) -> String {
    utf8(&bytes[..bytes.len().min(limit)])
}

/// At most the last [`MAX_SERVER_NAME`] bytes: the end of a domain name says more than its beginning.
pub(super) fn tail(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(MAX_SERVER_NAME)..]
}

/// A host name: lower case, up to the first NUL, tabs as spaces, other bytes that are no ASCII text as `?`.
pub(super) fn host(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let kept = tail(&bytes[..end]).iter().map(|b| match b {
        b'\t' => b' ',
        b' '..=b'~' => b.to_ascii_lowercase(),
        _ => b'?',
    });
    // All of it is ASCII.
    String::from_utf8(kept.collect()).unwrap_or_default()
}

/// A domain name: lower case, punctuation that host names do not have as `_`, bytes that are no ASCII text as `?`.
pub(super) fn domain(bytes: &[u8]) -> String {
    let kept = tail(bytes).iter().map(|b| match b {
        b'.' | b'-' | b'_' => *b,
        b if b.is_ascii_alphanumeric() => b.to_ascii_lowercase(),
        b' '..=b'~' => b'_',
        _ => b'?',
    });
    // All of it is ASCII.
    String::from_utf8(kept.collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_names() {
        assert_eq!(host(b"WWW.Ex\xc3\xa9\tb\0rest"), "www.ex?? b");
        assert_eq!(domain(b"A b*.\x01Org"), "a_b_.?org");
        assert_eq!(utf8("é\u{2019}".as_bytes()), "é\u{2019}");
        assert_eq!(utf8(b"a\xffb"), "ab");
        let long = [b'a'; 100];
        assert_eq!(host(&long).len(), MAX_SERVER_NAME);
        assert_eq!(host(&[&long[..], b".org"].concat()).get(75..), Some(".org"));
    }
}
