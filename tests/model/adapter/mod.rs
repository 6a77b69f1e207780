//! Adapters beside a frozen base.

mod dropout;
mod file;
mod golden;
mod kinds;
mod train;
