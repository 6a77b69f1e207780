//! Adapters beside a frozen base.

mod continual;
mod dropout;
mod file;
mod golden;
mod kinds;
mod train;
