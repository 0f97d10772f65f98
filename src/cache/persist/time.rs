//! Times as the tables hold them: UTC text.

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400;

/// Unix microseconds as `YYYY-MM-DD HH:MM:SS.ffffff`, or without the fraction.
///
/// Both compare as text in the order of time, for the years 0 to 9999; times outside are moved to those limits.
pub(super) fn to_text(micros: i64, fraction: bool) -> String {
    // 0000-01-01 and 9999-12-31 23:59:59.999999.
    let micros = micros.clamp(-62_167_219_200 * MICROS, 253_402_300_800 * MICROS - 1);
    let (seconds, rest) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date_of(days);
    let mut text = Vec::with_capacity(26);
    let mut number = |value: i64, digits: u32, end: &[u8]| {
        for place in (0..digits).rev() {
            text.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
        }
        text.extend_from_slice(end);
    };
    number(year, 4, b"-");
    number(month, 2, b"-");
    number(day, 2, b" ");
    number(second / 3600, 2, b":");
    number(second / 60 % 60, 2, b":");
    number(second % 60, 2, b"");
    if fraction {
        number(0, 0, b".");
        number(rest, 6, b"");
    }
    String::from_utf8(text).unwrap_or_default()
}

/// Unix microseconds of `YYYY-MM-DD HH:MM:SS[.f…]`, `T` allowed in place of the blank. `None` for any other text.
pub(super) fn from_text(text: &str) -> Option<i64> {
    let (head, tail) = text.as_bytes().split_first_chunk::<19>()?;
    let mut wrong = [head[4] ^ b'-', head[7] ^ b'-', head[13] ^ b':', head[16] ^ b':'].iter().fold(0, |sum, b| sum | b);
    wrong |= u8::from(!matches!(head[10], b' ' | b'T'));
    // Looks at all digits before it decides anything: half the time of stopping at the first that is none.
    let mut digit = |byte: u8| {
        let value = byte.wrapping_sub(b'0');
        wrong |= u8::from(value > 9);
        i64::from(value)
    };
    let mut two = |at: usize| 10 * digit(head[at]) + digit(head[at + 1]);
    let (year, month, day) = (100 * two(0) + two(2), two(5), two(8));
    let second = 3600 * two(11) + 60 * two(14) + two(17);
    let mut fraction = 0;
    if let [point, digits @ ..] = tail {
        for place in 0..6 {
            fraction = 10 * fraction + digits.get(place).map_or(0, |byte| digit(*byte));
        }
        for byte in digits.iter().skip(6) {
            digit(*byte);
        }
        wrong |= point ^ b'.';
    }
    if wrong != 0 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some((days_until(year, month, day) * DAY + second) * MICROS + fraction)
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
///
/// Counts in years that begin in March, so that the leap day is the last day of a year, and in eras of 400 years.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_until`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (micros, text) in [
            (0, "1970-01-01 00:00:00.000000"),
            (-1, "1969-12-31 23:59:59.999999"),
            (951_827_696_000_007, "2000-02-29 12:34:56.000007"),
            (4_107_542_400_000_000, "2100-03-01 00:00:00.000000"),
        ] {
            assert_eq!(to_text(micros, true), text);
            assert_eq!(from_text(text), Some(micros));
            assert_eq!(to_text(micros, false), text[..19]);
        }
        assert_eq!(from_text("2000-02-29T12:34:56.5"), Some(951_827_696_500_000));
        assert_eq!(to_text(i64::MAX, true), "9999-12-31 23:59:59.999999");
        assert_eq!(to_text(i64::MIN, true), "0000-01-01 00:00:00.000000");
        for bad in [
            "",
            "2000-02-29",
            "2000-13-01 00:00:00",
            "2000-01-01 00:00:00x",
            "2000-01-01 00:00:00.x",
            "abcd-01-01 00:00:00",
            "2000-01-01D00:00:00",
            "2000-01-01 00:00:00.1234567x",
        ] {
            assert_eq!(from_text(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn round_trip_and_order(a in -62_167_219_200_000_000_i64..253_402_300_800_000_000, b in -62_167_219_200_000_000_i64..253_402_300_800_000_000) {
            assert_eq!(from_text(&to_text(a, true)), Some(a));
            assert_eq!(to_text(a, true).cmp(&to_text(b, true)), a.cmp(&b));
        }
    }
}
