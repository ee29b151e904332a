use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much of something: a whole number of its smallest unit, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Amount {
    /// So many units.
    Units(u64),
    /// No limit; not a large number.
    Unlimited,
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no amount: {why}")]
pub struct AmountError {
    text: String,
    why: &'static str,
}

impl AmountError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "amount.malformed"
    }
}

impl Amount {
    /// Reads a decimal with an optional unit, exactly, in units of `10^-digits`.
    /// `parse_decimal("1.5", 3)` is 1500 (milli-cores).
    ///
    /// # Errors
    /// A sign, an exponent, more fractional digits than the unit has, or an overflow.
    pub fn parse_decimal(text: &str, digits: u32) -> Result<Self, AmountError> {
        let error = |why| AmountError { text: text.chars().take(64).collect(), why };
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(error("expected digits, at most one point, or `unlimited`"));
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() as u32 > digits {
            return Err(error("finer than the smallest unit"));
        }
        let scale = 10u64.checked_pow(digits).ok_or_else(|| error("unit too fine"))?;
        let whole: u64 = whole.parse().map_err(|_| error("too large"))?;
        let part = match fraction {
            "" => 0,
            f => f.parse::<u64>().map_err(|_| error("too large"))? * 10u64.pow(digits - f.len() as u32),
        };
        let units = whole.checked_mul(scale).and_then(|w| w.checked_add(part));
        units.map(Self::Units).ok_or_else(|| error("too large"))
    }

    /// Reads bytes: a whole number with an optional `K`, `M`, `G` or `T` (powers of 1024; `KiB` is the same).
    ///
    /// # Errors
    /// Anything else, or an overflow.
    pub fn parse_bytes(text: &str) -> Result<Self, AmountError> {
        let error = |why| AmountError { text: text.chars().take(64).collect(), why };
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[number.len()..] {
            "" | "B" => 0,
            "K" | "Ki" | "KiB" => 10,
            "M" | "Mi" | "MiB" => 20,
            "G" | "Gi" | "GiB" => 30,
            "T" | "Ti" | "TiB" => 40,
            _ => return Err(error("expected bytes or KiB, MiB, GiB, TiB")),
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error("expected a whole number of bytes or KiB, MiB, GiB, TiB"));
        }
        let number: u64 = number.parse().map_err(|_| error("too large"))?;
        number.checked_mul(1 << shift).map(Self::Units).ok_or_else(|| error("too large"))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Units(units) => write!(f, "{units}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::parse_decimal(text, 0)
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Units(units) => serializer.serialize_u64(*units),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Units(u64),
            Text(String),
        }
        match Form::deserialize(de)? {
            Form::Units(units) => Ok(Self::Units(units)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// What a node is asked to have or something is allowed to use. A missing dimension is not
/// asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Share of processors, in thousandths of a core.
    pub cpu_milli: Option<Amount>,
    /// Whole cores that nobody else uses.
    pub cores: Option<u32>,
    /// Bytes.
    pub memory: Option<Amount>,
    /// Bytes.
    pub disk: Option<Amount>,
    /// Bytes a second.
    pub network: Option<Amount>,
    /// Counters of the user's own.
    pub other: BTreeMap<String, Amount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        assert_eq!(Amount::parse_decimal("1.5", 3), Ok(Amount::Units(1500)));
        assert_eq!(Amount::parse_decimal("0.001", 3), Ok(Amount::Units(1)));
        assert_eq!(Amount::parse_decimal("2.5000", 3), Ok(Amount::Units(2500)));
        assert_eq!(Amount::parse_decimal("unlimited", 3), Ok(Amount::Unlimited));
        for bad in [
            "",
            ".",
            ".5",
            "-1",
            "+1",
            "1e3",
            "NaN",
            "0.0001",
            "1..2",
            "99999999999999999999",
            "18446744073709551615",
        ] {
            assert!(Amount::parse_decimal(bad, 3).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(Amount::parse_bytes("64MiB"), Ok(Amount::Units(64 << 20)));
        assert_eq!(Amount::parse_bytes("7"), Ok(Amount::Units(7)));
        for bad in ["", "MiB", "1.5G", "-1", "3X", "99999999999T"] {
            assert!(Amount::parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
