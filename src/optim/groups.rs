//! The parameters of a model in groups, each with its rule.

use super::{Optimizer, ParamInfo, StepInfo};
use crate::backend::adam::AdamArgs;
use crate::backend::{Backend, Param};
use crate::memory::Span;
use crate::quant::StateSpec;
use std::fmt;

/// The rules of a run, and which parameters each updates.
pub struct Groups {
    rules: Vec<Box<dyn Optimizer>>,
    /// The group of a parameter.
    of: fn(&ParamInfo) -> u8,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Groups of {} rules", self.rules.len())
    }
}

impl Groups {
    /// Several rules; `of` gives the number of the one for a parameter.
    pub fn new(rules: Vec<Box<dyn Optimizer>>, of: fn(&ParamInfo) -> u8) -> Self {
        Self { rules, of }
    }

    /// One rule for all parameters.
    pub fn one(rule: Box<dyn Optimizer>) -> Self {
        Self { rules: vec![rule], of: |_| 0 }
    }

    /// The group of a parameter, and the state that its rule declares.
    pub fn declare(&self, param: &ParamInfo) -> (u8, Vec<StateSpec>) {
        let group = (self.of)(param);
        (group, self.rules[usize::from(group)].state(param))
    }

    /// Float32 numbers beside the gradient that a step of the parameter needs.
    pub fn workspace(&self, param: &ParamInfo) -> usize {
        self.rules[usize::from((self.of)(param))].workspace(param)
    }

    /// Bytes of host memory that steps take beside the backend's.
    pub fn host_bytes(&self) -> usize {
        self.rules.iter().map(|rule| rule.host_bytes()).sum()
    }

    /// How long the steps since the last call have searched for projections.
    pub fn take_search_seconds(&self) -> f64 {
        self.rules.iter().map(|rule| rule.take_search_seconds()).sum()
    }

    /// The constants of a step that is one fused update; see [`Optimizer::fused`].
    pub fn fused(&self, param: &Param, at: &StepInfo) -> Option<AdamArgs> {
        self.rules[usize::from(param.group)].fused(param, at)
    }

    /// One update of a parameter; see [`Optimizer::step`].
    pub fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        self.rules[usize::from(param.group)].step(backend, param, grad, workspace, at);
    }
}
