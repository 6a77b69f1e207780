//! The results of a sequence: matrices, measures, and the table that is printed.

use super::measures::{Measures, share_of_joint};
use super::score::{Losses, Scores, by};
use crate::cli::table::Table;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use tetrad::config::{Config, Method};
use tetrad::model::Ensemble;

/// All results, in nats per token.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    /// The names of the tasks, in their order.
    tasks: Vec<String>,
    /// What the untouched base scores on them.
    base: Vec<f64>,
    /// What it scores on its own text.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_text: Option<f64>,
    results: Vec<Outcome>,
}

/// One way of learning, and of predicting after it.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    method: &'static str,
    /// Who predicts.
    by: &'static str,
    /// Rows: after each task; columns: the tasks. Of joint training one row.
    matrix: Vec<Vec<f64>>,
    #[serde(flatten)]
    measures: Measures,
    /// The shares of questions that are answered rightly, if a task has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<Accuracy>,
    /// How far the base's own text is above the untouched base's loss of it, after each task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    base_text_lost: Vec<f64>,
    /// The share of the way from sequential to joint training.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_joint: Option<f64>,
}

/// Shares of questions that are answered rightly: the matrix, and if all tasks have some the measures of it, in which what was
/// lost is positive.
#[derive(Clone, Debug, Serialize)]
struct Accuracy {
    matrix: Vec<Vec<Option<f64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgetting: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backward: Option<f64>,
}

impl Accuracy {
    fn of(base: &Scores, stages: &[Scores], ensemble: Ensemble) -> Option<Self> {
        let row = |scores: &Scores| -> Vec<Option<f64>> {
            scores.accuracy.iter().map(|shares| Some(by(shares.as_ref()?, ensemble))).collect()
        };
        let matrix: Vec<Vec<Option<f64>>> = stages.iter().map(row).collect();
        matrix.first().filter(|row| !row.is_empty())?;
        // Of shares of errors lower is better, as of losses.
        let errors = |row: &[Option<f64>]| row.iter().map(|share| Some(1.0 - (*share)?)).collect::<Option<Vec<f64>>>();
        let wrong: Option<Vec<Vec<f64>>> = matrix.iter().map(|row| errors(row)).collect();
        let found = wrong.zip(errors(&row(base))).map(|(wrong, base)| Measures::of(&wrong, &base));
        Some(Self {
            matrix,
            last: found.as_ref().map(|found| 1.0 - found.last),
            average: found.as_ref().and_then(|found| Some(1.0 - found.average?)),
            forgetting: found.as_ref().and_then(|found| found.forgetting),
            backward: found.as_ref().and_then(|found| found.backward),
        })
    }
}

impl Results {
    /// Puts together what the runs of each method score after each task.
    pub fn new(config: &Config, base: &Scores, scores: &BTreeMap<Method, Vec<Scores>>) -> Self {
        let alone = |losses: &Losses| by(losses, Ensemble::Online);
        let tasks: Vec<f64> = base.tasks.iter().map(alone).collect();
        let own = base.base.as_ref().map(alone);
        let mut results = Vec::new();
        for (&method, stages) in scores {
            let experts =
                if method.accumulates() && stages.len() > 1 { &Ensemble::ALL[..] } else { &[Ensemble::Online] };
            for &ensemble in experts {
                let row = |scores: &Scores| scores.tasks.iter().map(|losses| by(losses, ensemble)).collect();
                let matrix: Vec<Vec<f64>> = stages.iter().map(row).collect();
                let lost = |scores: &Scores| Some(by(scores.base.as_ref()?, ensemble) - own?);
                results.push(Outcome {
                    method: method.name(),
                    by: if experts.len() > 1 { ensemble.name() } else { "" },
                    measures: Measures::of(&matrix, &tasks),
                    matrix,
                    accuracy: Accuracy::of(base, stages, ensemble),
                    base_text_lost: stages.iter().filter_map(lost).collect(),
                    share_of_joint: None,
                });
            }
        }
        let last =
            |wanted: &dyn Fn(&Outcome) -> bool| results.iter().find(|one| wanted(one)).map(|one| one.measures.last);
        let sequential = last(&|one| one.by == Ensemble::Online.name());
        let joint = last(&|one| one.method == Method::Joint.name());
        if let (Some(sequential), Some(joint)) = (sequential, joint) {
            for one in &mut results {
                one.share_of_joint = share_of_joint(one.measures.last, sequential, joint);
            }
        }
        let names = config.continual.task.iter().map(|task| task.name.clone()).collect();
        Self { tasks: names, base: tasks, base_text: own, results }
    }

    /// Prints the table.
    ///
    /// # Errors
    /// Those of the output.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        const RIGHT: &[usize] = &[2, 3, 4, 5, 6, 7, 8];
        let mut table = Table::new(
            &["method", "by", "last", "average", "forgetting", "backward", "newest", "base's text", "of joint"],
            RIGHT,
        );
        let number = |x: f64| format!("{x:.4}");
        let signed = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{x:+.4}"));
        let mean = self.base.iter().sum::<f64>() / self.base.len().max(1) as f64;
        let newest = self.base.last().copied().map_or_else(String::new, number);
        let own = self.base_text.map_or_else(String::new, number);
        let none = String::new;
        table.row(["base".into(), none(), number(mean), none(), none(), none(), newest, own, none()]);
        for one in &self.results {
            let measures = &one.measures;
            table.row([
                one.method.into(),
                one.by.into(),
                number(measures.last),
                measures.average.map_or_else(String::new, number),
                signed(measures.forgetting),
                signed(measures.backward),
                number(measures.newest),
                signed(one.base_text_lost.last().copied()),
                one.share_of_joint.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
            ]);
        }
        table.print(out)?;
        self.print_accuracy(out)?;
        writeln!(
            out,
            "\nmean losses of all tasks in nats per token: last, after all of them; average, over their ends of those \
                       learned until then;"
        )?;
        writeln!(
            out,
            "forgetting and backward: how far earlier tasks are above their lowest loss, and above that right after \
                       they were learned;"
        )?;
        writeln!(
            out,
            "newest: the last task; base's text: above the base; of joint: the share of the way from sequential \
                       (online) to joint training"
        )
    }
    /// Prints a second table if questions were answered.
    fn print_accuracy(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.results.iter().all(|one| one.accuracy.is_none()) {
            return Ok(());
        }
        let heads: Vec<&str> = ["method", "by"].into_iter().chain(self.tasks.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heads, &[]);
        let percent = |share: &Option<f64>| share.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share));
        for one in &self.results {
            let Some(end) = one.accuracy.as_ref().and_then(|accuracy| accuracy.matrix.last()) else { continue };
            table.row([one.method.into(), one.by.into()].into_iter().chain(end.iter().map(percent)));
        }
        writeln!(out, "\nanswered rightly at the end:")?;
        table.print(out)
    }
}
