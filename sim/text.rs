//! Values as their `Debug` text and back: what stands on a tape can be read, edited and compared.
//!
//! `Debug` writes; `Field::read` reads the same text. Enums without data read by their list of
//! variants (`field_of!`), structs and acts by name and fields (`parts`, `field`).

use std::collections::BTreeMap;

/// A value that can be read from its `Debug` text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a tape: implement `crate::text::Field` for it \
               (`field_of!` does it for an enum without data)"
)]
pub trait Field: Sized {
    fn read(text: &str) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Field for $type {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        })*
    };
}
numbers!(u8, u16, u32, u64, usize, i32, i64, bool, f64);

/// An enum whose variants carry nothing, given the list of them all.
macro_rules! field_of {
    ($type:ty, $all:expr) => {
        impl $crate::text::Field for $type {
            fn read(text: &str) -> Option<Self> {
                $all.iter().copied().find(|v| format!("{v:?}") == text)
            }
        }
    };
}
pub(crate) use field_of;

impl<T: Field> Field for Option<T> {
    fn read(text: &str) -> Option<Self> {
        if text == "None" {
            return Some(None);
        }
        T::read(text.strip_prefix("Some(")?.strip_suffix(')')?).map(Some)
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(text: &str) -> Option<Self> {
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        split(inside).into_iter().map(T::read).collect()
    }
}

impl<K: Field + Ord, V: Field> Field for BTreeMap<K, V> {
    fn read(text: &str) -> Option<Self> {
        let inside = text.strip_prefix('{')?.strip_suffix('}')?;
        let pair = |item: &str| {
            let (key, value) = item.split_once(": ")?;
            Some((K::read(key)?, V::read(value)?))
        };
        split(inside).into_iter().map(pair).collect()
    }
}

/// `Name { a: 1, b: 2 }` as its name and its fields.
pub fn parts(text: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let text = text.trim();
    let Some((name, rest)) = text.split_once(" { ") else { return Some((text, Vec::new())) };
    let inside = rest.strip_suffix(" }")?;
    let fields = split(inside).into_iter().map(|f| f.split_once(": "));
    Some((name, fields.collect::<Option<_>>()?))
}

pub fn field<T: Field>(fields: &[(&str, &str)], name: &str) -> Option<T> {
    let (_, text) = fields.iter().find(|f| f.0 == name)?;
    T::read(text)
}

/// Items between commas that are inside no bracket.
fn split(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (Vec::new(), 0_i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            b',' if depth == 0 => {
                out.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    let last = text[from..].trim();
    if !last.is_empty() {
        out.push(last);
    }
    out
}
