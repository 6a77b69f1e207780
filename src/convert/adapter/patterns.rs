//! Patterns of module names, as PEFT matches them: Python's regular expressions against paths such as
//! `model.layers.0.self_attn.q_proj`.

use super::site::{Site, Sites};
use crate::error::AdapterError;
use fancy_regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Most patterns of one option.
const MOST_PATTERNS: usize = 4096;

/// Most bytes of a pattern.
const MOST_PATTERN: usize = 1 << 16;

/// A pattern and where it comes from.
#[derive(Debug)]
pub(super) struct Pattern {
    key: &'static str,
    text: String,
    regex: Regex,
}

impl Pattern {
    /// One that a whole path has to match.
    ///
    /// # Errors
    /// If it is no regular expression.
    pub fn whole(key: &'static str, text: &str) -> Result<Self, AdapterError> {
        Self::compile(key, text, &format!("^(?:{text})$"))
    }

    /// One that the path, or what follows one of its dots, has to match.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub fn end(key: &'static str, text: &str) -> Result<Self, AdapterError> {
        Self::compile(key, text, &format!(r"^(?:.*\.)?(?:{text})$"))
    }

    /// One that names, before a block's number, the list that the blocks are in.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub fn list(key: &'static str, text: &str) -> Result<Self, AdapterError> {
        Self::compile(key, text, &format!(r"^.*\.(?:{text})\.(\d+)\."))
    }

    fn compile(key: &'static str, text: &str, whole: &str) -> Result<Self, AdapterError> {
        let refuse = |reason: String| AdapterError::Pattern { key, pattern: shown(text), reason };
        if text.len() > MOST_PATTERN {
            return Err(refuse(format!("has {} bytes, at most {MOST_PATTERN} are read", text.len())));
        }
        let regex = Regex::new(whole).map_err(|e| refuse(format!("is no regular expression: {e}")))?;
        Ok(Self { key, text: text.to_owned(), regex })
    }

    /// Whether it matches the path of a module.
    ///
    /// # Errors
    /// If that takes too long to say.
    pub fn matches(&self, path: &str) -> Result<bool, AdapterError> {
        self.regex.is_match(path).map_err(|e| self.refuse(format!("cannot be matched: {e}")))
    }

    fn refuse(&self, reason: String) -> AdapterError {
        AdapterError::Pattern { key: self.key, pattern: shown(&self.text), reason }
    }

    /// Checks that it matches some matrix of the base.
    ///
    /// # Errors
    /// If it matches none.
    pub fn must_match(&self, sites: &Sites) -> Result<(), AdapterError> {
        for site in sites.iter() {
            if self.matches(&site.module)? {
                return Ok(());
            }
        }
        Err(self.refuse("matches no matrix of the base".into()))
    }
}

/// Numbers by pattern; the first that matches counts.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<(Pattern, f64)>);

impl Numbers {
    /// Of an option.
    ///
    /// # Errors
    /// Patterns that are none, that match nothing, or that are too many.
    pub fn new(key: &'static str, pairs: Vec<(String, f64)>, sites: &Sites) -> Result<Self, AdapterError> {
        refuse_many(key, pairs.len())?;
        let pattern = |(text, number): (String, f64)| {
            let pattern = Pattern::end(key, &text)?;
            pattern.must_match(sites)?;
            Ok((pattern, number))
        };
        Ok(Self(pairs.into_iter().map(pattern).collect::<Result<_, AdapterError>>()?))
    }

    /// That of a module, if a pattern matches it.
    ///
    /// # Errors
    /// As [`Pattern::matches`].
    pub fn of(&self, site: &Site) -> Result<Option<f64>, AdapterError> {
        for (pattern, number) in &self.0 {
            if pattern.matches(&site.module)? {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }
}

/// Refuses more patterns than a model can need.
///
/// # Errors
/// Their number.
pub(super) fn refuse_many(key: &'static str, count: usize) -> Result<(), AdapterError> {
    if count <= MOST_PATTERNS {
        return Ok(());
    }
    let (found, allowed) = (format!("{count} patterns"), format!("at most {MOST_PATTERNS} are read"));
    Err(AdapterError::Option { key: key.into(), found, allowed })
}

/// For a message: short, without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(|c| if c.is_control() { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// Members of a JSON object in the order of the text, which decides which pattern is the first.
#[derive(Debug)]
pub(super) struct Members<T>(pub Vec<(String, T)>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of patterns with numbers")
            }

            fn visit_unit<E>(self) -> Result<Members<T>, E> {
                Ok(Members::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members<T>, A::Error> {
                let mut found: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = members.next_entry::<String, T>()? {
                    if found.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format_args!("{:?} stands there twice", shown(&name))));
                    }
                    found.push((name, value));
                    if found.len() > MOST_PATTERNS {
                        return Err(serde::de::Error::custom(format_args!("more than {MOST_PATTERNS} patterns")));
                    }
                }
                Ok(Members(found))
            }
        }
        deserializer.deserialize_any(Object(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_peft_matches_them() {
        let at = |pattern: Result<Pattern, AdapterError>, path: &str| pattern.unwrap().matches(path).unwrap();
        let path = "model.layers.11.self_attn.q_proj";
        assert!(at(Pattern::end("k", "q_proj"), path) && at(Pattern::end("k", r"layers\.\d+\.self_attn\..*"), path));
        assert!(!at(Pattern::end("k", "_proj"), path), "what follows a dot, not any end");
        assert!(!at(Pattern::end("k", "model"), path) && !at(Pattern::end("k", "1.self_attn.q_proj"), path));
        assert!(at(Pattern::end("k", "k_proj|q_proj"), path) && at(Pattern::end("k", r"(?!.*v_proj).*q_proj"), path));
        assert!(at(Pattern::whole("k", r".*\.(q|k)_proj"), path) && !at(Pattern::whole("k", "q_proj"), path));
        assert!(at(Pattern::list("k", "layers"), path) && !at(Pattern::list("k", "h"), path));
        assert!(Pattern::end("k", "(").unwrap_err().to_string().starts_with("k: \"(\" is no regular expression"));
    }

    #[test]
    fn a_pattern_that_takes_for_ever_is_an_error() {
        let pattern = Pattern::end("k", r"(?=((a+)+)\1)a*b").unwrap();
        let said = pattern.matches(&"a".repeat(4000)).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("cannot be matched"), "{said}");
    }
}
