//! Moments as text in the form that the standard library's adapters give them.

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// `datetime.isoformat(" ")`: `2024-02-29 12:00:00.250000`, of seconds and nanoseconds since 1970 in UTC; with nine
/// digits where six would not do, and with an offset if the moment has a time zone. `None` outside the years 1 to 9999.
pub(super) fn timestamp(seconds: i64, nanoseconds: i64, zoned: bool) -> Option<String> {
    debug_assert!((0..SECOND).contains(&nanoseconds));
    let mut text = date(seconds.div_euclid(DAY))?;
    let within = seconds.rem_euclid(DAY);
    text += &format!(" {:02}:{:02}:{:02}", within / 3600, within / 60 % 60, within % 60);
    if nanoseconds % 1000 != 0 {
        text += &format!(".{nanoseconds:09}");
    } else if nanoseconds != 0 {
        text += &format!(".{:06}", nanoseconds / 1000);
    }
    if zoned {
        text += "+00:00";
    }
    Some(text)
}

/// `date.isoformat()`: `2024-02-29`, of days since 1970. `None` outside the years 1 to 9999.
pub(super) fn date(days: i64) -> Option<String> {
    const FIRST: i64 = -719_162; // 0001-01-01
    const LAST: i64 = 2_932_896; // 9999-12-31
    if !(FIRST..=LAST).contains(&days) {
        return None;
    }
    // Howard Hinnant's civil_from_days: years that begin in March, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        let table = [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (-25_509, "1900-02-28"),
            (-25_508, "1900-03-01"),
            (-719_162, "0001-01-01"),
            (2_932_896, "9999-12-31"),
        ];
        for (days, text) in table {
            assert_eq!(date(days).as_deref(), Some(text), "{days}");
        }
        assert_eq!((date(-719_163), date(2_932_897)), (None, None));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(-719_162).unwrap();
        for days in -719_161..=2_932_896 {
            let next = date(days).unwrap();
            assert!(last < next, "{last} {next}");
            last = next;
        }
    }

    #[test]
    fn times() {
        assert_eq!(timestamp(-1, 0, false).unwrap(), "1969-12-31 23:59:59");
        assert_eq!(timestamp(86_399, 250_000_000, true).unwrap(), "1970-01-01 23:59:59.250000+00:00");
        assert_eq!(timestamp(0, 1, false).unwrap(), "1970-01-01 00:00:00.000000001");
    }
}
