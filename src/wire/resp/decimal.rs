//! Sums of decimal fractions, for INCRBYFLOAT: the digits that Redis would answer.
//!
//! Redis reads both numbers with `strtold`, adds them as the processor does, and prints the sum
//! with `%.17Lf`. On x86 that is arithmetic on 64 binary digits, which shows: -1.245449 -
//! 489.780284 is -491.02573300000000001. So that the digits are the same on every machine, the same
//! arithmetic is done here, on integers.

use big::Big;

mod big;

/// The longest text that Redis looks at.
const TEXT_LEN_MAX: usize = 5 * 1024 - 1;
/// Digits behind the point of a sum.
const PLACES: usize = 17;
/// The exponents of the lowest binary digit that is kept, of the smallest number and of the
/// greatest.
const EXPONENT_MIN: i64 = -16445;
const EXPONENT_MAX: i64 = 16383 - 63;
/// The decimal exponent beyond which a number overflows or underflows, however many digits it has.
const DECIMAL_EXPONENT_MAX: i64 = 10_100;

/// The reason why there is no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    CurrentIsNoNumber,
    IncrementIsNoNumber,
    /// One of them is infinite, or the sum would be.
    NotFinite,
}

/// The sum as Redis prints it: with no more digits than it needs, at most 17 of them behind the
/// point, and never with an exponent. It is itself a number.
pub fn add(current: &[u8], by: &[u8]) -> Result<Vec<u8>, NotAdded> {
    let current = Number::parse(current).ok_or(NotAdded::CurrentIsNoNumber)?;
    let by = Number::parse(by).ok_or(NotAdded::IncrementIsNoNumber)?;
    let (Number::Finite(current), Number::Finite(by)) = (current, by) else { return Err(NotAdded::NotFinite) };
    Ok(current.plus(by).ok_or(NotAdded::NotFinite)?.print())
}

/// Returns true if Redis takes this for a number. It takes infinity for one, and digits of base 16
/// behind `0x`.
pub fn is_number(bytes: &[u8]) -> bool {
    Number::parse(bytes).is_some()
}

/// The number that a text stands for.
enum Number {
    Finite(Float),
    Infinite,
}

/// `mantissa * 2^exponent`. Either the topmost bit of the mantissa is set, or the exponent is the
/// least.
#[derive(Clone, Copy)]
struct Float {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

impl Number {
    /// Reads a number. `None` where `strtold` stops early, or Redis does not trust it.
    fn parse(text: &[u8]) -> Option<Number> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            return Some(Number::Infinite);
        }
        let digits = match unsigned {
            [b'0', b'x' | b'X', hex @ ..] => Digits::parse(hex, 16)?,
            _ => Digits::parse(unsigned, 10)?,
        };
        digits.round(negative).map(Number::Finite)
    }
}

/// A number as it is written: its digits without the point, times a power.
struct Digits {
    digits: Big,
    base: u32,
    /// A power of 10, or of 2 where the base is 16.
    exponent: i64,
}

impl Digits {
    fn parse(text: &[u8], base: u32) -> Option<Digits> {
        let (mark, for_each_place) = if base == 16 { (b'p', 4) } else { (b'e', 1) };
        let end = text.iter().position(|byte| byte.to_ascii_lowercase() == mark).unwrap_or(text.len());
        let (text, exponent) = text.split_at(end);
        let mut exponent = if exponent.is_empty() { 0 } else { parse_exponent(&exponent[1..])? };
        let mut digits = Big::default();
        // Digits are taken up by the group: there may be thousands.
        let (mut group, mut scale) = (0, 1_u32);
        let (mut any, mut behind_point) = (false, false);
        for byte in text {
            if *byte == b'.' && !behind_point {
                behind_point = true;
                continue;
            }
            group = group * base + char::from(*byte).to_digit(base)?;
            scale *= base;
            if scale.checked_mul(base).is_none() {
                digits.multiply_and_add(scale, group);
                (group, scale) = (0, 1);
            }
            exponent -= if behind_point { for_each_place } else { 0 };
            any = true;
        }
        digits.multiply_and_add(scale, group);
        any.then_some(Digits { digits, base, exponent })
    }

    /// The nearest number that there is; `None` if it is infinite, or zero though there are digits.
    fn round(self, negative: bool) -> Option<Float> {
        if self.digits.is_zero() {
            return Some(Float { negative, mantissa: 0, exponent: EXPONENT_MIN });
        }
        if self.base == 10 && self.exponent.abs() > DECIMAL_EXPONENT_MAX {
            return None;
        }
        let (mut numerator, mut denominator) = (self.digits, Big::from(1));
        if self.base == 10 {
            // 10^n is 5^n * 2^n.
            let side = if self.exponent < 0 { &mut denominator } else { &mut numerator };
            side.multiply_by_power_of_5(self.exponent.unsigned_abs());
        }
        let (bits, exponent) = numerator.divide(denominator);
        Float::round(negative, bits, exponent.saturating_add(self.exponent)).filter(|float| float.mantissa != 0)
    }
}

/// One that is too long for an integer is as good as the greatest.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    const MAX: i64 = i64::MAX / 4;
    let size = digits.iter().fold(0, |size: i64, digit| size.saturating_mul(10).saturating_add(i64::from(digit - b'0')).min(MAX));
    Some(if negative { -size } else { size })
}

impl Float {
    /// The number that is nearest to `bits * 2^exponent`; of two, the even one. `None` if that is
    /// infinite. Where digits were dropped from the end of `bits`, its lowest one is set.
    fn round(negative: bool, bits: u128, exponent: i64) -> Option<Float> {
        let len = i64::from(u128::BITS - bits.leading_zeros());
        if len == 0 {
            return Some(Float { negative, mantissa: 0, exponent: EXPONENT_MIN });
        }
        let kept_exponent = (exponent.saturating_add(len - 64)).max(EXPONENT_MIN);
        let dropped = kept_exponent - exponent;
        let kept = match dropped {
            ..=0 => bits << -dropped,
            1..=127 => shift_right_to_even(bits, dropped as u32),
            // It was below half of the smallest.
            _ => 0,
        };
        // Rounding may have made it one digit longer.
        let (mantissa, exponent) = match u64::try_from(kept) {
            Ok(mantissa) => (mantissa, kept_exponent),
            Err(_) => (1 << 63, kept_exponent + 1),
        };
        (exponent <= EXPONENT_MAX).then_some(Float { negative, mantissa, exponent })
    }

    /// The sum; `None` if it is infinite.
    fn plus(self, other: Float) -> Option<Float> {
        /// Digits behind the lowest of the greater number: enough for what is dropped not to matter
        /// but by its being there.
        const ROOM: i64 = 62;
        let (great, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let apart = great.exponent - small.exponent;
        let great_bits = i128::from(great.mantissa) << ROOM;
        let small_bits = i128::from(small.mantissa) << ROOM;
        let small_bits = match apart {
            0..=ROOM => small_bits >> apart,
            63..=126 => (small_bits >> apart) | i128::from(small_bits & ((1 << apart) - 1) != 0),
            // Too little to matter at all.
            _ => 0,
        };
        let signed = |bits: i128, negative: bool| if negative { -bits } else { bits };
        let sum = signed(great_bits, great.negative) + signed(small_bits, small.negative);
        Float::round(sum < 0, sum.unsigned_abs(), great.exponent - ROOM)
    }

    /// The number as `%.17Lf` prints it, without zeros at the end.
    fn print(self) -> Vec<u8> {
        let mut digits = match u32::try_from(self.exponent) {
            Ok(exponent) => {
                let mut digits = Big::from(self.mantissa).shift_left(exponent).into_digits();
                digits.extend([b'0'; PLACES]);
                digits
            }
            Err(_) => {
                let scaled = u128::from(self.mantissa) * 10_u128.pow(PLACES as u32);
                let places = self.exponent.unsigned_abs();
                // The product has less than 122 bits.
                let rounded = if places < 127 { shift_right_to_even(scaled, places as u32) } else { 0 };
                format!("{rounded:0width$}", width = PLACES + 1).into_bytes()
            }
        };
        let point = digits.len() - PLACES;
        let kept = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1).max(point);
        digits.truncate(kept);
        if kept > point {
            digits.insert(point, b'.');
        }
        if self.negative && digits != b"0" {
            digits.insert(0, b'-');
        }
        digits
    }
}

/// `bits / 2^places`, rounded to the nearest, and to the even one of two. `places` is at most 127.
fn shift_right_to_even(bits: u128, places: u32) -> u128 {
    let Some(half) = places.checked_sub(1).map(|place| 1_u128 << place) else { return bits };
    let (whole, rest) = (bits >> places, bits & ((half << 1) - 1));
    whole + u128::from(rest > half || (rest == half && whole & 1 == 1))
}

#[cfg(test)]
mod tests;
