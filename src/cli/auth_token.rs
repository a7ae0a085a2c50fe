//! `--auth-token`: how clients are told apart, and the key files that takes.

use super::config::ConfigError;
use crate::api::tokens::{Jwt, TokenKind};
use std::collections::BTreeMap;

/// What was asked for; files are read when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOptions {
    Simple,
    Jwt { method: String, private: Option<String>, public: Option<String>, ttl_ms: u64 },
}

const TTL_MS_DEFAULT: u64 = 5 * 60 * 1000;

impl TokenOptions {
    /// `simple`, or `jwt,key=value,...` with etcd's keys.
    pub fn parse(text: &str) -> Result<TokenOptions, ConfigError> {
        let wrong = |why: String| ConfigError::new(format!("--auth-token={text}: {why}"));
        let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
        let mut given = BTreeMap::new();
        for option in rest.split(',').filter(|option| !option.is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                return Err(wrong(format!("\"{option}\" is not key=value")));
            };
            if given.insert(key, value).is_some() {
                return Err(wrong(format!("{key} is given twice")));
            }
        }
        match kind {
            "simple" => Ok(TokenOptions::Simple),
            "jwt" => {
                let mut take = |key| given.remove(key).map(str::to_owned);
                let method =
                    take("sign-method").ok_or_else(|| wrong("sign-method is missing".into()))?;
                let (private, public) = (take("priv-key"), take("pub-key"));
                let ttl_ms = match take("ttl") {
                    None => TTL_MS_DEFAULT,
                    Some(ttl) => duration_ms(&ttl).ok_or_else(|| {
                        wrong(format!("ttl={ttl} is no time: say 10m, 1h or 90s"))
                    })?,
                };
                if let Some(key) = given.keys().next() {
                    return Err(wrong(format!("{key} is not known")));
                }
                Ok(TokenOptions::Jwt { method, private, public, ttl_ms })
            }
            other => Err(wrong(format!("{other} is not known: say simple or jwt"))),
        }
    }

    /// Reads the keys.
    pub fn open(&self) -> Result<TokenKind, String> {
        let TokenOptions::Jwt { method, private, public, ttl_ms } = self else {
            return Ok(TokenKind::Simple);
        };
        let read = |path: &Option<String>| {
            let read = |path: &String| {
                std::fs::read(path).map_err(|error| format!("--auth-token: {path}: {error}"))
            };
            path.as_ref().map(read).transpose()
        };
        let (private, public) = (read(private)?, read(public)?);
        let jwt = Jwt::new(method, private.as_deref(), public.as_deref(), *ttl_ms);
        jwt.map(|jwt| TokenKind::Signed(Box::new(jwt)))
            .map_err(|error| format!("--auth-token: {error}"))
    }
}

/// A Go duration of whole units: `90s`, `10m`, `1h30m`, `500ms`.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at(unit);
        let each = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(each)?)?;
        rest = next;
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_forms_are_understood() {
        assert_eq!(TokenOptions::parse("simple"), Ok(TokenOptions::Simple));
        assert_eq!(
            TokenOptions::parse("jwt,pub-key=a.pub,priv-key=a.key,sign-method=RS512,ttl=1h30m"),
            Ok(TokenOptions::Jwt {
                method: "RS512".into(),
                private: Some("a.key".into()),
                public: Some("a.pub".into()),
                ttl_ms: 5_400_000,
            })
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "is not known: say simple or jwt"),
            ("jwt", "sign-method is missing"),
            ("jwt,sign-method=HS256,ttl=5", "ttl=5 is no time"),
            ("jwt,sign-method=HS256,ttl=0s", "ttl=0s is no time"),
            ("jwt,sign-method=HS256,sign-method=HS256", "sign-method is given twice"),
            ("jwt,sign-method=HS256,colour=red", "colour is not known"),
            ("jwt,RS256", "\"RS256\" is not key=value"),
        ] {
            let error = TokenOptions::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
