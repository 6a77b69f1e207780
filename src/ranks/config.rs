//! `[ranks]`: processes that train one model together.

use crate::error::Problems;
use serde::{Deserialize, Serialize};

/// `[ranks]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RanksConfig {
    /// Seconds without an answer after which a rank is lost; 0: it is waited for without end.
    pub timeout: u64,
}

impl RanksConfig {
    /// Every mistake that its values show.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        // A year.
        problems.within("ranks.timeout", self.timeout as usize, 0, 31_536_000);
        problems
    }
}

impl Default for RanksConfig {
    fn default() -> Self {
        Self { timeout: 600 }
    }
}
