//! Adapters beside a frozen base.

mod file;
