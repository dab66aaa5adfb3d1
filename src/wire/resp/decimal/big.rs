//! Whole numbers of any length, as far as reading and printing a number needs them. Their length is
//! bounded by what they are made of.

/// Digits of base 2^32, the lowest first, the last not zero.
#[derive(Clone, Default)]
pub struct Big(Vec<u32>);

impl From<u64> for Big {
    fn from(number: u64) -> Big {
        let mut big = Big(vec![number as u32, (number >> 32) as u32]);
        big.trim();
        big
    }
}

impl Big {
    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    pub fn multiply_and_add(&mut self, by: u32, plus: u32) {
        let mut carry = u64::from(plus);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(by);
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    pub fn multiply_by_power_of_5(&mut self, exponent: u64) {
        /// 5^13 fits a digit.
        const GROUP: u64 = 13;
        for _ in 0..exponent / GROUP {
            self.multiply_and_add(5_u32.pow(GROUP as u32), 0);
        }
        self.multiply_and_add(5_u32.pow((exponent % GROUP) as u32), 0);
    }

    pub fn shift_left(mut self, places: u32) -> Big {
        if !self.is_zero() {
            self.multiply_and_add(1 << (places % 32), 0);
            self.0.splice(..0, std::iter::repeat_n(0, (places / 32) as usize));
        }
        self
    }

    /// The topmost 66 binary digits of the quotient, and how often they are to be doubled. Where
    /// more than nothing remains, the lowest is set. Neither may be zero.
    pub fn divide(self, by: Big) -> (u128, i64) {
        const LEN: u32 = 66;
        let ahead = self.len() - by.len();
        let shift = |big: Big, places: i64| big.shift_left(u32::try_from(places).unwrap_or(0));
        let (mut rest, by) = (shift(self, -ahead), shift(by, ahead));
        // Both are of one length now. The quotient is to begin with a 1.
        let mut exponent = ahead;
        if !rest.subtract(&by) {
            exponent -= 1;
            rest = rest.shift_left(1);
            rest.subtract(&by);
        }
        let mut quotient = 1;
        for _ in 1..LEN {
            rest.multiply_and_add(2, 0);
            quotient = quotient << 1 | u128::from(rest.subtract(&by));
        }
        (quotient | u128::from(!rest.is_zero()), exponent - i64::from(LEN - 1))
    }

    /// The number as decimal digits; none for zero.
    pub fn into_digits(mut self) -> Vec<u8> {
        let mut groups = Vec::new();
        while !self.is_zero() {
            groups.push(self.divide_by_billion());
        }
        let mut digits = Vec::new();
        for group in groups.iter().rev() {
            digits.extend(format!("{group:09}").bytes());
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.split_off(zeros)
    }

    /// The length in binary digits.
    fn len(&self) -> i64 {
        self.0.last().map_or(0, |top| 32 * self.0.len() as i64 - i64::from(top.leading_zeros()))
    }

    /// Takes the other away, if this is not the lesser of the two.
    fn subtract(&mut self, other: &Big) -> bool {
        if self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev())).is_lt() {
            return false;
        }
        let mut borrowed = false;
        for (place, digit) in self.0.iter_mut().enumerate() {
            let (less, first) = digit.overflowing_sub(other.0.get(place).copied().unwrap_or(0));
            let (less, second) = less.overflowing_sub(u32::from(borrowed));
            *digit = less;
            borrowed = first || second;
        }
        self.trim();
        true
    }

    /// The remainder.
    fn divide_by_billion(&mut self) -> u32 {
        const BILLION: u64 = 1_000_000_000;
        let mut rest = 0;
        for digit in self.0.iter_mut().rev() {
            let number = rest << 32 | u64::from(*digit);
            *digit = (number / BILLION) as u32;
            rest = number % BILLION;
        }
        self.trim();
        rest as u32
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}
