//! What of the tests' harness is used.

#[path = "../../tests/harness/operands.rs"]
pub mod operands;
