//! Patterns of module paths, as PEFT's `target_modules` and `rank_pattern` use them.

use glob::Pattern;

/// A pattern that a path matches as a whole, or from one of its dots on: `q_proj` is the query projection of every layer,
/// `layers.0.mlp.down_proj` one of one layer. `*` stands for any characters, `?` for one, `[01]` for one of several.
#[derive(Clone, Debug)]
pub struct PathPattern {
    whole: Pattern,
    end: Pattern,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let pattern = |text: &str| Pattern::new(text).map_err(|error| error.msg.to_owned());
        if text.is_empty() {
            return Err("an empty pattern matches nothing".into());
        }
        Ok(Self { whole: pattern(text)?, end: pattern(&format!("*.{text}"))? })
    }

    /// Whether a module's path matches.
    pub fn matches(&self, path: &str) -> bool {
        self.whole.matches(path) || self.end.matches(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_from_a_dot_on() {
        let matches = |pattern: &str, path: &str| PathPattern::new(pattern).unwrap().matches(path);
        let (q, q10) = ("model.layers.1.self_attn.q_proj", "model.layers.10.self_attn.q_proj");
        for pattern in ["q_proj", "self_attn.q_proj", q, "layers.1.*", "layers.[01].self_attn.?_proj", "model.*"] {
            assert!(matches(pattern, q), "{pattern}");
        }
        assert!(!matches("_proj", q) && !matches("layers.1.self_attn", q) && !matches("ayers.1.self_attn.q_proj", q));
        assert!(matches("layers.1*.self_attn.q_proj", q10) && !matches("layers.1.self_attn.q_proj", q10));
        assert!(PathPattern::new("").is_err() && PathPattern::new("[").is_err());
    }
}
