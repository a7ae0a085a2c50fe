//! The URLs that members listen at and advertise: a scheme, a host, a port, nothing else.
//!
//! The text is kept as it was given, because etcd derives member ids from it.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// A checked URL. Orders and compares by its text, as etcd's lists of URLs do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// Without the brackets of an IPv6 address; may be empty (`http://:2379`).
    host: String,
    port: u16,
}

impl Url {
    /// Reads `http://host:port`. The error says what is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("unix" | "unixs", _)) => {
                return Err(format!("unix sockets are not supported: {text}"));
            }
            _ => return Err(format!("URL scheme must be http or https: {text}")),
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!(
                "URL must be a scheme and host:port alone, without a path: {text}"
            ));
        }
        let (host, port) = split_authority(rest)
            .ok_or_else(|| format!("URL address does not have the form \"host:port\": {text}"))?;
        Ok(Url { text: text.to_string(), scheme, host: host.to_string(), port })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
    pub fn host(&self) -> &str {
        &self.host
    }
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, with brackets around an IPv6 address: what a dialer or listener wants.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the host is "every address of this machine", which nobody else can dial.
    pub fn is_unspecified(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }
}

fn split_authority(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').filter(|inside| inside.contains(':'))?,
        None if host.contains([':', ']']) => return None,
        None => host,
    };
    // `u16::from_str` takes a leading plus, which is no port.
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, port.parse().ok()?))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls() {
        for (text, host, port, authority) in [
            ("http://localhost:2379", "localhost", 2379, "localhost:2379"),
            (" https://10.0.0.1:1 ", "10.0.0.1", 1, "10.0.0.1:1"),
            ("http://[::1]:2380", "::1", 2380, "[::1]:2380"),
            ("http://:2379", "", 2379, ":2379"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.host(), url.port(), url.authority().as_str()), (host, port, authority));
            assert_eq!(url.as_str(), text.trim());
        }
        assert!(Url::parse("http://0.0.0.0:1").expect("valid").is_unspecified());
        assert!(Url::parse("http://[::]:1").expect("valid").is_unspecified());
    }

    #[test]
    fn bad_urls_say_why() {
        for (text, why) in [
            ("localhost:2379", "URL scheme must be http or https"),
            ("ftp://a:1", "URL scheme must be http or https"),
            ("unix:///tmp/x", "unix sockets are not supported"),
            ("http://localhost", "does not have the form \"host:port\""),
            ("http://localhost:", "does not have the form \"host:port\""),
            ("http://localhost:+1", "does not have the form \"host:port\""),
            ("http://localhost:65536", "does not have the form \"host:port\""),
            ("http://::1:2379", "does not have the form \"host:port\""),
            ("http://[abc]:2379", "does not have the form \"host:port\""),
            ("http://a:1/", "without a path"),
            ("http://user@a:1", "without a path"),
        ] {
            let error = Url::parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
