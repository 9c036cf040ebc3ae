//! Floating point as Redis reckons with it: x87's 80-bit format (64 bits of mantissa), which is what C's
//! `long double` is on x86-64. INCRBYFLOAT's replies depend on every one of those bits, and Rust has no such
//! type.
//!
//! A value is `mantissa * 2^exponent`; the mantissa's highest bit is set, but for zero. Each operation is
//! exact and then rounded once, to nearest, ties to even: as IEEE 754 asks. Subnormals are not told apart
//! from small normal numbers: neither has a digit that [`Extended::decimal`] shows.

use std::fmt::Write;

/// One beyond the largest exponent of a value: 2^16384 and more is infinite.
const EXPONENT_END: i64 = 16_384;
/// Values below 2^-16446 are zero to C, which refuses to read them.
const EXPONENT_MIN: i64 = -16_446;
/// The longest text that Redis takes for a number.
const TEXT_BYTES_MAX: usize = 5 * 1024;
/// Ten to the ninth: the largest power of ten below 2^32.
const BILLION: u32 = 1_000_000_000;
/// Digits behind the point.
const PLACES: usize = 17;

/// A number; never infinite, never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

/// True for what C's `strtold` reads as infinite: `inf` or `infinity`, in any case, with a sign or without.
pub(crate) fn is_infinite(text: &[u8]) -> bool {
    let word = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity")
}

impl Extended {
    /// Reads a decimal number as C's `strtold` does: no blanks, nothing behind it. `None`: it is none, or
    /// is out of range.
    pub(crate) fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
        let (digits, power) = text.split_at(end);
        let mut ten: i64 = match power.get(1..) {
            None => 0,
            Some(power) => exponent(power)?,
        };
        let point = digits.iter().position(|byte| *byte == b'.');
        let (whole, places) = digits.split_at(point.unwrap_or(digits.len()));
        let places = places.get(1..).unwrap_or_default();
        if whole.is_empty() && places.is_empty() {
            return None;
        }
        let mut number = Big::default();
        for digit in whole.iter().chain(places) {
            if !digit.is_ascii_digit() {
                return None;
            }
            number.multiply_add(10, u32::from(digit - b'0'));
        }
        ten -= places.len() as i64;
        if number.is_zero() {
            return Some(Extended { negative, mantissa: 0, exponent: 0 });
        }
        // Far out of range either way: not worth the memory.
        let about = number.bits() + ten.saturating_mul(10) / 3;
        if !(EXPONENT_MIN - 64..=EXPONENT_END + 64).contains(&about) {
            return None;
        }
        let (mut two, mut inexact) = (0, false);
        if ten >= 0 {
            times_ten(ten, |ten| number.multiply_add(ten, 0));
        } else {
            // Enough bits for the quotient to have more than a mantissa's.
            two = -(70 + ten.unsigned_abs() as i64 * 10 / 3 + 1);
            number.shift_left(two.unsigned_abs() as usize);
            times_ten(-ten, |ten| inexact |= number.divide(ten) != 0);
        }
        let (top, below) = number.top();
        rounded(negative, top, two + below, inexact || number.has_below(below))
    }

    /// The sum; `None` if it is infinite.
    pub(crate) fn add(self, other: Extended) -> Option<Extended> {
        let (large, small) = match (self.mantissa, other.mantissa) {
            (0, 0) => {
                let negative = self.negative && other.negative;
                return Some(Extended { negative, mantissa: 0, exponent: 0 });
            }
            (0, _) => return Some(other),
            (_, 0) => return Some(self),
            _ if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) => {
                (self, other)
            }
            _ => (other, self),
        };
        // Two bits of room above, and 62 below: what is shifted out there only counts as not nothing.
        let apart = u32::try_from(large.exponent - small.exponent).unwrap_or(u32::MAX);
        let wide = u128::from(small.mantissa) << 62;
        let shifted = wide.checked_shr(apart).unwrap_or(0);
        let lost = shifted.checked_shl(apart).unwrap_or(0) != wide;
        let small_wide = shifted | u128::from(lost);
        let large_wide = u128::from(large.mantissa) << 62;
        let sum = match large.negative == small.negative {
            true => large_wide + small_wide,
            false => large_wide - small_wide,
        };
        if sum == 0 {
            return Some(Extended { negative: false, mantissa: 0, exponent: 0 });
        }
        rounded(large.negative, sum, large.exponent - 62, false)
    }

    /// As `%.17Lf` writes it, less the zeros at the end: how Redis shows such numbers.
    pub(crate) fn decimal(self) -> String {
        let mut text = String::new();
        let mut places = String::new();
        if self.exponent >= 0 {
            let mut number = Big(vec![self.mantissa as u32, (self.mantissa >> 32) as u32]);
            number.shift_left(self.exponent as usize);
            text = number.decimal();
        } else {
            // Below 2^121: ten to the 17th takes 57 bits.
            let scaled = u128::from(self.mantissa) * 10u128.pow(PLACES as u32);
            let shift = u32::try_from(-self.exponent).unwrap_or(u32::MAX);
            let whole = scaled.checked_shr(shift).unwrap_or(0);
            let rest = scaled - whole.checked_shl(shift).unwrap_or(0);
            let half = 1u128.checked_shl(shift - 1).unwrap_or(u128::MAX);
            let up = rest > half || rest == half && whole & 1 == 1;
            let whole = whole + u128::from(up);
            let unit = 10u128.pow(PLACES as u32);
            // Writing to a String cannot fail.
            let _ = write!(text, "{}", whole / unit);
            let _ = write!(places, "{:017}", whole % unit);
            places.truncate(places.trim_end_matches('0').len());
        }
        let point = if places.is_empty() { "" } else { "." };
        let sign = if self.negative && (text != "0" || !places.is_empty()) { "-" } else { "" };
        format!("{sign}{text}{point}{places}")
    }
}

/// The power behind an `e`; very large ones are as good as each other.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: i64, digit: &u8| (sum * 10 + i64::from(digit - b'0')).min(1_000_000);
    let power = digits.iter().fold(0, add);
    Some(if negative { -power } else { power })
}

/// Calls `step` with powers of ten whose product is `10^count`.
fn times_ten(mut count: i64, mut step: impl FnMut(u32)) {
    while count > 0 {
        let some = count.min(9) as u32;
        step(10u32.pow(some));
        count -= i64::from(some);
    }
}

/// `wide * 2^exponent` (and a little more, if `inexact`) with 64 bits of mantissa.
fn rounded(negative: bool, wide: u128, exponent: i64, inexact: bool) -> Option<Extended> {
    let bits = i64::from(128 - wide.leading_zeros());
    let shift = bits - 64;
    let (mut mantissa, mut exponent) = (wide, exponent + shift);
    if shift <= 0 {
        mantissa <<= -shift;
    } else {
        let rest = wide & ((1 << shift) - 1);
        let half = 1 << (shift - 1);
        mantissa >>= shift;
        if rest > half || rest == half && (inexact || mantissa & 1 == 1) {
            mantissa += 1;
        }
    }
    if mantissa >> 64 != 0 {
        mantissa >>= 1;
        exponent += 1;
    }
    let in_range = exponent + 64 <= EXPONENT_END && exponent + 64 > EXPONENT_MIN;
    in_range.then_some(Extended { negative, mantissa: mantissa as u64, exponent })
}

/// A natural number of any size; the lowest 32 bits first.
#[derive(Clone, Debug, Default)]
struct Big(Vec<u32>);

impl Big {
    fn is_zero(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn bits(&self) -> i64 {
        let top = self.0.iter().rposition(|word| *word != 0);
        top.map_or(0, |top| 32 * (top as i64 + 1) - i64::from(self.0[top].leading_zeros()))
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides, and gives the rest.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0;
        for word in self.0.iter_mut().rev() {
            let value = rest << 32 | u64::from(*word);
            *word = (value / u64::from(divisor)) as u32;
            rest = value % u64::from(divisor);
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        rest as u32
    }

    fn shift_left(&mut self, bits: usize) {
        self.multiply_add(1 << (bits % 32), 0);
        self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
    }

    /// The highest 96 bits or more (all, if there are not so many), and how many bits lie below them.
    fn top(&self) -> (u128, i64) {
        let used = self.0.iter().rposition(|word| *word != 0).map_or(0, |top| top + 1);
        let from = used.saturating_sub(4);
        let words = self.0.get(from..used).unwrap_or_default();
        let top = words.iter().rev().fold(0, |top, word| top << 32 | u128::from(*word));
        (top, 32 * from as i64)
    }

    /// Whether any of the lowest `bits` (a multiple of 32) is set.
    fn has_below(&self, bits: i64) -> bool {
        self.0.iter().take(bits as usize / 32).any(|word| *word != 0)
    }

    fn decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.is_zero() {
            groups.push(self.divide(BILLION));
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{group:09}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(one: &str, other: &str) -> Option<String> {
        let (one, other) = (Extended::parse(one.as_bytes())?, Extended::parse(other.as_bytes())?);
        Some(one.add(other)?.decimal())
    }

    /// What Redis 7.0.15 on x86-64 answered to SET k one, INCRBYFLOAT k other.
    #[test]
    fn sums_are_those_of_redis() {
        for (one, other, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-1", "0.5", "-0.5"),
            ("0", "-0", "0"),
            ("1e-18", "0", "0"),
            ("-1e-18", "0", "0"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("18446744073709551615", "0.5", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
        ] {
            assert_eq!(sum(one, other).as_deref(), Some(expected), "{one} + {other}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "e5", "1e", "1e+", " 1", "1 ", "1.2.3", "0x", "abc", "nan"] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["1e4933", "1e999999999999", "-1e5000", "1e-4999"] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        let largest = Extended::parse(b"1e4932").expect("within the range");
        assert!(largest.add(Extended::parse(b"1e4931").expect("in range")).is_some());
        assert_eq!(largest.add(largest), None);
        assert_eq!(largest.decimal().len(), 4933);
    }

    proptest::proptest! {
        /// Doubles are exact here, and so is Rust's way to write them.
        #[test]
        fn doubles_read_and_write_exactly(value in proptest::num::f64::NORMAL) {
            let value = if value.abs() < 1e-280 { 0.25 } else { value };
            let text = format!("{value:e}");
            let read = Extended::parse(text.as_bytes()).expect("a number");
            let exact = Extended::parse(format!("{value:.1100}").as_bytes()).expect("a number");
            // The shortest text of a double is within half its last place; the long one is the double.
            let mut long = format!("{value:.17}");
            if long.contains('.') {
                long.truncate(long.trim_end_matches('0').trim_end_matches('.').len());
            }
            if long == "-0" {
                long = "0".into();
            }
            proptest::prop_assert_eq!(exact.decimal(), long);
            proptest::prop_assert_eq!(read.negative, exact.negative);
        }
    }
}
