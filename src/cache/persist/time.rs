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
    let bytes = text.as_bytes();
    let marks = [(4, b"--"), (7, b"--"), (10, b" T"), (13, b"::"), (16, b"::")];
    if bytes.len() < 19 || marks.iter().any(|(at, either)| !either.contains(&bytes[*at])) {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let (month, day) = (number(5, 7)?, number(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds =
        days_until(number(0, 4)?, month, day) * DAY + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let fraction = match &bytes[19..] {
        [] => 0,
        [b'.', digits @ ..] => {
            let mut padded = [b'0'; 6];
            for (place, digit) in padded.iter_mut().zip(digits) {
                *place = *digit;
            }
            if !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            padded.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
        }
        _ => return None,
    };
    Some(seconds * MICROS + fraction)
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
