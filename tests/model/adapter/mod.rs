//! Adapters beside a frozen base.

mod file;
mod golden;
mod train;
