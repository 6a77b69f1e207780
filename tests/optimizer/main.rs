//! Update rules through the public operations: the recorded trajectories of reference implementations, and the fused
//! pass beside a readable step.

mod blockwise;
mod equality;
mod golden;
mod low_rank;
mod naive;
mod one_param;
mod recorded;
mod reference;
