//! `dump --stats`: what a tensor's values look like.

use super::histogram::{self, Codes};
use super::quantile::{SHARES, Upper};
use crate::cli::number::{self, percent, share, short};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::{self, Write};
use tetrad::format::{Decoder, File, Role};

/// Statistics of one tensor in one role.
pub(super) struct Stats {
    /// Index of the tensor.
    pub tensor: usize,
    name: String,
    role: Role,
    /// The role in words.
    shown: String,
    values: Values,
    quantiles: Vec<f32>,
    codes: Option<Codes>,
}

/// Sums over the values; extremes and moments are over the finite ones.
#[derive(Default)]
struct Values {
    count: u64,
    zero: u64,
    nan: u64,
    inf: u64,
    min: f64,
    max: f64,
    sum: f64,
    squares: f64,
}

impl Values {
    fn add(&mut self, x: f32) {
        self.count += 1;
        if !x.is_finite() {
            *(if x.is_nan() { &mut self.nan } else { &mut self.inf }) += 1;
            return;
        }
        let (x, first) = (f64::from(x), self.finite() == 1);
        self.zero += u64::from(x == 0.0);
        self.min = if first { x } else { self.min.min(x) };
        self.max = if first { x } else { self.max.max(x) };
        self.sum += x;
        self.squares += x * x;
    }

    fn finite(&self) -> u64 {
        self.count - self.nan - self.inf
    }

    /// NaN if no value is finite.
    fn mean(&self) -> f64 {
        self.sum / self.finite() as f64
    }

    fn rms(&self) -> f64 {
        (self.squares / self.finite() as f64).sqrt()
    }
}

/// Statistics of these tensors in every role they have.
pub(super) fn of(file: &File<'_>, tensors: &[usize]) -> Vec<Stats> {
    let roles = |&tensor: &usize| Role::of(&file.tensors()[tensor]).map(move |role| (tensor, role));
    let jobs: Vec<_> = tensors.iter().flat_map(roles).collect();
    jobs.into_par_iter().filter_map(|(tensor, role)| one(file, tensor, role)).collect()
}

fn one(file: &File<'_>, tensor: usize, role: Role) -> Option<Stats> {
    let decoder = Decoder::new(file, tensor, role)?;
    let mut row = vec![0.0; decoder.cols()];
    let mut each = |visit: &mut dyn FnMut(f32)| {
        for r in 0..decoder.rows() {
            decoder.row(r, &mut row);
            row.iter().for_each(|&x| visit(x));
        }
    };
    let (mut values, mut upper) = (Values::default(), Upper::new());
    each(&mut |x| {
        values.add(x);
        if !x.is_nan() {
            upper.add(x);
        }
    });
    let quantiles = upper.split().map(|mut lower| {
        each(&mut |x| {
            if !x.is_nan() {
                lower.add(x);
            }
        });
        lower.quantiles()
    });
    let found = &file.tensors()[tensor];
    let (name, shown) = (found.spec.name.clone(), role.name(found).to_owned());
    let codes = histogram::of(file, tensor, role);
    Some(Stats { tensor, name, role, shown, values, quantiles: quantiles.unwrap_or_default(), codes })
}

/// A block of lines per tensor and role.
pub(super) fn text(out: &mut dyn Write, stats: &[Stats]) -> io::Result<()> {
    for s in stats {
        let v = &s.values;
        writeln!(out, "\n{} {}", s.name, s.shown)?;
        writeln!(
            out,
            "  min {}  max {}  mean {}  rms {}  zero {}  nan {}  inf {}",
            short(v.min),
            short(v.max),
            short(v.mean()),
            short(v.rms()),
            percent(v.zero, v.count),
            v.nan,
            v.inf
        )?;
        let quantiles =
            SHARES.iter().zip(&s.quantiles).map(|(p, q)| format!("  {}% {}", p * 100.0, short((*q).into())));
        writeln!(out, "  quantiles{}", quantiles.collect::<String>())?;
        let Some(codes) = &s.codes else { continue };
        if s.role != Role::Trained {
            let (elements, groups) = (percent(codes.saturated, v.count), percent(codes.saturated_groups, codes.groups));
            writeln!(out, "  saturated {elements} of codes, {groups} of groups")?;
        }
        if let Some(counts) = &codes.counts {
            let what = if s.role == Role::Trained { "residue" } else { "codes" };
            writeln!(out, "  {what} 0 {} 15", histogram::bars(counts))?;
        }
    }
    Ok(())
}

/// The same as a JSON object.
pub(super) fn json(s: &Stats) -> Value {
    let v = &s.values;
    let quantiles = SHARES.iter().zip(&s.quantiles).map(|(p, q)| json!([p, number::json((*q).into())]));
    let mut value = json!({
        "role": s.shown, "count": v.count,
        "min": number::json(v.min), "max": number::json(v.max),
        "mean": number::json(v.mean()), "rms": number::json(v.rms()),
        "zero": share(v.zero, v.count), "nan": v.nan, "inf": v.inf,
        "quantiles": quantiles.collect::<Vec<_>>(),
    });
    if let Some(codes) = &s.codes {
        value["codes"] = json!(codes.counts);
        if s.role != Role::Trained {
            value["saturated"] = json!(share(codes.saturated, v.count));
            value["saturated_groups"] = json!(share(codes.saturated_groups, codes.groups));
        }
    }
    value
}
