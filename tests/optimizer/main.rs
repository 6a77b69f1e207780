//! Update rules through the public operations: the recorded trajectories of reference implementations, and the fused
//! pass beside a readable step.

mod equality;
mod golden;
mod muon;
mod naive;
mod one_param;
mod reference;
