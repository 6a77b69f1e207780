//! Adapters beside a frozen base.

mod dropout;
mod file;
mod golden;
mod train;
