//! Sums that Redis gave, and that no text is too much.

use super::*;
use proptest::prelude::*;

/// Results of INCRBYFLOAT in Redis 7.0.15 on x86-64. Its error does not name the operand that is no
/// number, so Redis was asked about each operand alone.
#[test]
fn sums_are_those_of_redis() {
    let cases: &[(&str, &str, Result<&str, NotAdded>)] = &[
        ("0.1", "0.2", Ok("0.3")),
        ("0", "0", Ok("0")),
        ("-0", "-0", Ok("0")),
        ("-0", "0", Ok("0")),
        ("1", "-1", Ok("0")),
        ("10", ".5", Ok("10.5")),
        ("5.", "5.", Ok("10")),
        ("3.0e3", "2e2", Ok("3200")),
        ("5e3", "0.5", Ok("5000.5")),
        ("1E+2", "1e-2", Ok("100.01")),
        ("+1", "1", Ok("2")),
        ("-1.5", "0.25", Ok("-1.25")),
        ("00012", "-00.5000", Ok("11.5")),
        ("123456789012.345", "0.1", Ok("123456789012.44500000029802322")),
        ("999999999999999", "0.000000000000001", Ok("999999999999999")),
        ("99999999999.9999", "0.0001", Ok("100000000000")),
        ("0.3", "-0.1", Ok("0.2")),
        ("1.1", "2.2", Ok("3.3")),
        ("-3.14159265358979", "2.71828182845905", Ok("-0.42331082513074")),
        ("1e15", "1e-15", Ok("1000000000000000")),
        ("1e17", "1", Ok("100000000000000001")),
        ("1e17", "1e-17", Ok("100000000000000000")),
        ("1e-17", "0", Ok("0.00000000000000001")),
        ("5e-18", "0", Ok("0")),
        ("-5e-18", "0", Ok("0")),
        ("1.5e-17", "0", Ok("0.00000000000000002")),
        ("1e-18", "1e-18", Ok("0")),
        ("9223372036854775807", "1", Ok("9223372036854775808")),
        ("18446744073709551615", "1", Ok("18446744073709551616")),
        ("18446744073709551615", "2", Ok("18446744073709551616")),
        ("18446744073709551616", "1", Ok("18446744073709551616")),
        ("18446744073709551618", "1", Ok("18446744073709551620")),
        ("18446744073709551619", "0", Ok("18446744073709551620")),
        ("18446744073709551616", "0x1.0000000000000002p0", Ok("18446744073709551618")),
        ("18446744073709551616", "-1e-30", Ok("18446744073709551616")),
        ("9007199254740993", "0.5", Ok("9007199254740993.5")),
        ("1e30", "1e10", Ok("1000000000000000000024696061952")),
        ("123456789e20", "-0.5", Ok("12345678900000000000263192576")),
        ("1e4932", "-1e4932", Ok("0")),
        ("1e-4950", "0", Ok("0")),
        ("0x10", "0X1.8p1", Ok("19")),
        ("-0x.8", "0", Ok("-0.5")),
        ("0xffffffffffffffffff", "0", Ok("4722366482869645213696")),
        ("1e-4952", "0", Err(NotAdded::CurrentIsNoNumber)),
        ("1e4933", "0", Err(NotAdded::CurrentIsNoNumber)),
        ("1e400", "-1e400", Ok("0")),
        ("0e99999999999999999999", "1", Ok("1")),
        ("1.18973149535723176502e4932", "1.18973149535723176502e4932", Err(NotAdded::NotFinite)),
        ("inf", "1", Err(NotAdded::NotFinite)),
        ("1", "-INF", Err(NotAdded::NotFinite)),
        ("infinity", "-inf", Err(NotAdded::NotFinite)),
        ("nan", "1", Err(NotAdded::CurrentIsNoNumber)),
        ("1", "nan(1)", Err(NotAdded::IncrementIsNoNumber)),
        ("", "1", Err(NotAdded::CurrentIsNoNumber)),
        ("1", "", Err(NotAdded::IncrementIsNoNumber)),
        (" 1", "1", Err(NotAdded::CurrentIsNoNumber)),
        ("1", "1 ", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "\t1", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1e", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1e+", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "e5", Err(NotAdded::IncrementIsNoNumber)),
        ("1", ".", Err(NotAdded::IncrementIsNoNumber)),
        ("1", ".e1", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1.2.3", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "--1", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "+-1", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1,5", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1_0", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "0x", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "0x.", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "0x1p", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "0xg", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "infinit", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1\0", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1\x002", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1e99999999999999999999", Err(NotAdded::IncrementIsNoNumber)),
        ("1", "1e-99999999999999999999", Err(NotAdded::IncrementIsNoNumber)),
    ];
    for (current, by, sum) in cases {
        let found = add(current.as_bytes(), by.as_bytes()).map(|sum| String::from_utf8(sum).unwrap());
        assert_eq!(found, sum.map(str::to_owned), "{current:?} + {by:?}");
        assert_eq!(is_number(current.as_bytes()), *sum != Err(NotAdded::CurrentIsNoNumber), "{current:?}");
    }
}

/// Checked against Redis as well.
#[test]
fn long_texts_are_read_to_their_end() {
    let zeros = |count| "0".repeat(count);
    let sum = |current: String| add(current.as_bytes(), b"0").map(|sum| String::from_utf8(sum).unwrap());
    assert_eq!(sum(zeros(5118) + "1"), Ok("1".to_owned()));
    assert_eq!(sum(zeros(5119) + "1"), Err(NotAdded::CurrentIsNoNumber));
    assert_eq!(sum(format!("0.{}1e5001", zeros(5000))), Ok("1".to_owned()));
    assert_eq!(sum(format!("0x{}1p-4", zeros(1000))), Ok("0.0625".to_owned()));
    assert_eq!(sum(format!("1{}", zeros(4932))).map(|sum| sum.len()), Ok(4933));
    assert_eq!(sum("9".repeat(4932)).map(|sum| sum.len()), Ok(4933));
    assert_eq!(sum("9".repeat(4933)), Err(NotAdded::CurrentIsNoNumber));
    assert_eq!(sum("7".repeat(5100) + "e-10050"), Ok("0".to_owned()));
    assert_eq!(sum("7".repeat(5100) + "e-10060"), Err(NotAdded::CurrentIsNoNumber));
    // Half way between two numbers of 64 binary digits, and a little more in the last of many
    // places.
    assert_eq!(sum("18446744073709551617".to_owned()), Ok("18446744073709551616".to_owned()));
    assert_eq!(sum(format!("18446744073709551617.{}1", zeros(300))), Ok("18446744073709551618".to_owned()));
}

proptest! {
    /// Below 16, the 17th place behind the point shows nothing of the binary digits.
    #[test]
    fn short_decimals_add_up(a in -7_999_999_i64..=7_999_999, b in -7_999_999_i64..=7_999_999) {
        let millionths = |number: i64| format!("{}{}.{:06}", if number < 0 { "-" } else { "" }, number.abs() / 1_000_000, number.abs() % 1_000_000);
        let exact = millionths(a + b);
        let exact = exact.trim_end_matches('0').trim_end_matches('.');
        prop_assert_eq!(String::from_utf8(add(millionths(a).as_bytes(), millionths(b).as_bytes()).unwrap()).unwrap(), exact);
    }

    #[test]
    fn a_sum_is_a_number_that_stays_as_it_is(a in "[+-]?[0-9]{1,25}(\\.[0-9]{0,25})?([eE][+-]?[0-9]{1,4})?", b in "-?(0x[0-9a-f]{1,20}(p-?[0-9]{1,5})?|[0-9]{0,8})") {
        if let Ok(sum) = add(a.as_bytes(), b.as_bytes()) {
            prop_assert!(is_number(&sum));
            prop_assert_eq!(add(&sum, b"0"), Ok(sum));
        }
    }

    #[test]
    fn nothing_panics(a in "[-+0-9.eExXpPinfa ]{0,30}", b: Vec<u8>) {
        let _ = add(a.as_bytes(), &b);
        let _ = add(&b, a.as_bytes());
        let _ = add(a.as_bytes(), a.as_bytes());
    }
}
