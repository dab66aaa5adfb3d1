//! Patterns of KEYS, SCAN and their kin: `*`, `?`, `[a-z]`, `[^a]` and `\`, byte for byte as Redis
//! matches them.
//!
//! Redis's `stringmatchlen` (util.c, 7.0) calls itself at every `*`; here a failure goes back to
//! the last `*` alone. That finds the same, for all that stands between two `*` takes exactly one
//! byte of the key for each of its parts, and takes at most one look at the pattern for each byte
//! of the key.

/// Returns true if all of the key is matched by all of the pattern.
pub fn matches(pattern: &[u8], key: &[u8]) -> bool {
    if key.is_empty() {
        // Redis does not look at patterns here, so `**` does not match, but KEYS and SCAN do
        // without a look if all is wanted.
        return matches!(pattern, b"" | b"*");
    }
    let (mut at, mut place) = (0, 0);
    // Behind the last `*`, and the first byte of the key that it does not take.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = key.get(place) {
        match pattern.get(at..) {
            Some([b'*']) => return true,
            Some([b'*', ..]) => {
                at += 1;
                star = Some((at, place));
                continue;
            }
            Some(rest @ [_, ..]) => {
                let (len, hit) = part(rest, *byte);
                if hit {
                    at += len;
                    place += 1;
                    continue;
                }
            }
            _ => {}
        }
        // The last `*` takes one byte more. To have one before it take more would only leave it
        // less.
        let Some((behind, taken)) = &mut star else { return false };
        *taken += 1;
        (at, place) = (*behind, *taken);
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The length of the part that the pattern begins with, which is no `*`, and whether the byte is
/// one that it stands for.
fn part(pattern: &[u8], byte: u8) -> (usize, bool) {
    match pattern {
        [b'?', ..] => (1, true),
        [b'[', b'^', rest @ ..] => {
            let (len, hit) = class(rest, byte);
            (2 + len, !hit)
        }
        [b'[', rest @ ..] => {
            let (len, hit) = class(rest, byte);
            (1 + len, hit)
        }
        // A `\` that ends the pattern stands for itself.
        [b'\\', literal, ..] => (2, *literal == byte),
        _ => (1, pattern.first() == Some(&byte)),
    }
}

/// The length of what is behind `[` up to its `]`, or up to the end if it is never closed, and
/// whether the byte is in it.
fn class(pattern: &[u8], byte: u8) -> (usize, bool) {
    let (mut at, mut hit) = (0, false);
    loop {
        let (len, found) = match &pattern[at..] {
            [] => return (at, hit),
            [b'\\', literal, ..] => (2, *literal == byte),
            [b']', ..] => return (at + 1, hit),
            // Any byte ends a range: even `]`, which then does not close, and `\`, which then
            // escapes nothing.
            [start, b'-', end, ..] => (3, in_range(*start, *end, byte)),
            [literal, ..] => (1, *literal == byte),
        };
        at += len;
        hit |= found;
    }
}

/// Returns true if a byte is in a range, whose ends may be in either order. Redis's bytes have a
/// sign, where it is built for x86: those from 128 on come before the others.
fn in_range(start: u8, end: u8, byte: u8) -> bool {
    let [start, end, byte] = [start, end, byte].map(u8::cast_signed);
    (start.min(end)..=start.max(end)).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The answers of KEYS of Redis 7.0.15 on x86-64 where the key is the only one.
    #[test]
    fn patterns_match_what_redis_matches() {
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"", b"", true),
            (b"", b"a", false),
            (b"*", b"", true),
            (b"**", b"", false),
            (b"?", b"", false),
            (b"*", b"a", true),
            (b"a", b"a", true),
            (b"a", b"A", false),
            (b"a", b"ab", false),
            (b"ab", b"a", false),
            (b"a*", b"a", true),
            (b"a**", b"a", true),
            (b"*a", b"a", true),
            (b"**a", b"ba", true),
            (b"*a", b"ab", false),
            (b"*a*", b"bab", true),
            (b"*ab*cd*", b"xabxcxcdx", true),
            (b"*ab*cd*", b"xcdxab", false),
            (b"*a*b", b"ab", true),
            (b"*a*b", b"ba", false),
            (b"*aab", b"aaab", true),
            (b"?", b"a", true),
            (b"?", b"ab", false),
            (b"?", b"\xff", true),
            (b"a?c", b"abc", true),
            (b"*?", b"a", true),
            (b"?*?", b"a", false),
            (b"?*?", b"ab", true),
            (b"[abc]", b"b", true),
            (b"[abc]", b"d", false),
            (b"[a-c]", b"b", true),
            (b"[c-a]", b"b", true),
            (b"[z-a]x", b"mx", true),
            (b"[a-c]", b"d", false),
            (b"[^a]", b"b", true),
            (b"[^a]", b"a", false),
            (b"[^a-c]", b"b", false),
            (b"[^a-c]", b"d", true),
            (b"[^]", b"a", true),
            (b"[^]", b"^", true),
            (b"[]", b"]", false),
            (b"[]a]", b"a", false),
            (b"[]a]", b"]", false),
            (b"[a^]", b"^", true),
            (b"[a-]", b"-", false),
            (b"[a-]", b"a", true),
            (b"[a-]", b"^", true),
            (b"[a-]]", b"_", true),
            (b"[a-]]", b"b", false),
            (b"[-a]", b"-", true),
            (b"[a-c-e]", b"-", true),
            (b"[a-c-e]", b"d", false),
            (b"[a-c-e]", b"e", true),
            (b"[", b"[", false),
            (b"[", b"a", false),
            (b"[a", b"a", true),
            (b"[a", b"b", false),
            (b"[a", b"[a", false),
            (b"[^", b"a", true),
            (b"[^a", b"b", true),
            (b"[^a", b"a", false),
            (b"[a-", b"-", true),
            (b"[a-", b"a", true),
            (b"[a-", b"b", false),
            (b"x[a-c", b"xb", true),
            (b"*[", b"a[", false),
            (b"*[b", b"ab", true),
            (b"[ab*", b"*", true),
            (b"[ab*", b"ac", false),
            (b"\\", b"\\", true),
            (b"a\\", b"a\\", true),
            (b"a\\", b"a", false),
            (b"\\\\", b"\\", true),
            (b"\\\\", b"\\\\", false),
            (b"\\*", b"*", true),
            (b"\\*", b"a", false),
            (b"\\?", b"?", true),
            (b"\\?", b"a", false),
            (b"\\a", b"a", true),
            (b"\\[a]", b"[a]", true),
            (b"*\\", b"a\\", true),
            (b"*\\*", b"a*", true),
            (b"*\\*", b"ab", false),
            (b"[\\]]", b"]", true),
            (b"[\\]", b"\\", false),
            (b"[\\]", b"]", true),
            (b"[\\", b"\\", true),
            (b"[\\a-c]", b"b", false),
            (b"[\\a-c]", b"-", true),
            (b"[a-\\]", b"_", true),
            (b"[a-\\]", b"`", true),
            (b"[\\^a]", b"^", true),
            (b"[\\-a]", b"-", true),
            (b"[a-\xff]", b"\x00", true),
            (b"[a-\xff]", b"\xff", true),
            (b"[a-\xff]", b"b", false),
            (b"[a-\xff]", b"\x80", false),
            (b"[\x80-\xff]", b"\xc0", true),
            (b"[\x7f-\x80]", b"m", true),
            (b"\xff*", b"\xff\xfe", true),
            (b"a\x00*", b"a\x00b", true),
            (b"*\x00", b"a\x00", true),
        ];
        for (pattern, key, matched) in cases {
            assert_eq!(matches(pattern, key), *matched, "{} on {}", pattern.escape_ascii(), key.escape_ascii());
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_one() {
        let (stars, key) = (b"*a".repeat(1000), b"a".repeat(10_000));
        assert!(matches(&stars, &key));
        assert!(!matches(&[&stars, &b"b"[..]].concat(), &key));
        assert!(!matches(&[&stars, &b"[b"[..]].concat(), &key));
        assert!(matches(&b"*".repeat(100_000), &key));
        assert!(!matches(&[&b"*".repeat(100_000), &b"b"[..]].concat(), &key));
    }

    proptest! {
        #[test]
        fn a_pattern_of_escapes_matches_its_key_alone(key: Vec<u8>, other: Vec<u8>) {
            let pattern: Vec<u8> = key.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&pattern, &key));
            prop_assert_eq!(matches(&pattern, &other), key == other);
        }

        #[test]
        fn nothing_panics(pattern in r"[ab\[\]\^\*\?\\-]{0,12}", key in r"[ab\[\]\^\*\?\\-]{0,12}", any: Vec<u8>) {
            matches(pattern.as_bytes(), key.as_bytes());
            matches(pattern.as_bytes(), &any);
            matches(&any, key.as_bytes());
        }
    }
}
