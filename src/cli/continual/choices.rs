//! Tasks whose answers are one of a few: a model chooses the answer to which it gives the greatest likelihood after the
//! prompt, as LAE chooses a class.

use super::score::{Losses, shares, ways};
use super::setup::Held;
use crate::cli::Failure;
use crate::cli::device::{self, Device};
use crate::cli::output::{escape, write_file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetrad::backend::IGNORE;
use tetrad::checkpoint::{Adapted, Capacity};
use tetrad::config::TaskConfig;
use tetrad::data::Windows;
use tetrad::model::{Batch, Ensemble, Posterior};
use xxhash_rust::xxh3::xxh3_64;

/// Questions with all their answers, a row for each.
pub(super) struct Choices {
    windows: Windows,
    choices: usize,
    /// The right answer of each question.
    right: Vec<usize>,
}

/// A file with every question and each of its answers, as samples, and the right ones.
pub(super) struct Written {
    pub path: PathBuf,
    right: Vec<usize>,
    choices: usize,
}

impl Written {
    /// Of the held-out samples of a task, in `cache`.
    ///
    /// # Errors
    /// Files that are no lines of prompts and completions, completions that are none of the answers.
    pub fn new(task: &TaskConfig, files: &[PathBuf], cache: &Path) -> Result<Self, Failure> {
        let (mut text, mut right) = (String::new(), Vec::new());
        for file in files {
            let shown = escape(&file.to_string_lossy());
            let lines = std::fs::read_to_string(file).map_err(|e| format!("{shown}: cannot be read as text: {e}"))?;
            for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| !line.trim().is_empty()) {
                let wrong = |what: String| format!("{shown}, line {number}: {what}");
                let found: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
                let (Some(prompt), Some(completion)) = (found["prompt"].as_str(), found["completion"].as_str()) else {
                    return Err(wrong("a question is {\"prompt\": ..., \"completion\": ...}".into()).into());
                };
                let answer = completion.trim();
                let Some(at) = task.choices.iter().position(|choice| choice == answer) else {
                    let choices = task.choices.join(", ");
                    return Err(
                        wrong(format!("{:?} is none of continual.task.choices: {choices}", escape(answer))).into()
                    );
                };
                right.push(at);
                for choice in &task.choices {
                    // What stands around the answer stays.
                    let completion = completion.replacen(answer, choice, 1);
                    text += &json!({ "prompt": prompt, "completion": completion }).to_string();
                    text.push('\n');
                }
            }
        }
        let path = cache.join(format!("choices-{:016x}.jsonl", xxh3_64(text.as_bytes())));
        if !path.is_file() {
            write_file(&path, text.as_bytes())?;
        }
        Ok(Self { path, right, choices: task.choices.len() })
    }

    /// The questions, once their file became rows.
    ///
    /// # Errors
    /// If some were too long for a row.
    pub fn questions(self, held: Held) -> Result<Choices, Failure> {
        let (rows, wanted) = (held.windows.len(), self.right.len() * self.choices);
        let cut = held.truncated();
        if rows != wanted || cut > 0 {
            return Err(format!(
                "continual.task.choices: {cut} questions are longer than a row, and {rows} of {wanted} rows are left; raise \
                 train.sequence"
            )
            .into());
        }
        Ok(Choices { windows: held.windows, choices: self.choices, right: self.right })
    }
}

/// The answer that is chosen: by the log-likelihoods of all answers and of the prompt, each by the online and by the offline
/// expert.
fn choose(ensemble: Ensemble, answers: &[[f64; 2]], prompt: [f64; 2]) -> usize {
    // The experts' distributions over the answers.
    let norm = [0, 1].map(|expert| {
        let most = answers.iter().map(|answer| answer[expert]).fold(f64::NEG_INFINITY, f64::max);
        most + answers.iter().map(|answer| (answer[expert] - most).exp()).sum::<f64>().ln()
    });
    let mut seen = Posterior::default();
    seen.see(prompt);
    let of = |answer: &[f64; 2]| {
        let [a, b] = [answer[0] - norm[0], answer[1] - norm[1]];
        match ensemble {
            Ensemble::Online => a,
            Ensemble::Offline => b,
            Ensemble::Max => a.max(b),
            Ensemble::Geometric => a + b,
            Ensemble::Mean => Posterior::default().mix([a, b]),
            Ensemble::Posterior => seen.mix([a, b]),
        }
    };
    let mut best = 0;
    for i in 1..answers.len() {
        if of(&answers[i]) > of(&answers[best]) {
            best = i;
        }
    }
    best
}

impl Choices {
    /// The shares of the questions that are answered rightly, by what predicts.
    ///
    /// # Errors
    /// A device that cannot be used or fails.
    pub fn accuracy(&self, model: &Adapted<'_>, sequence: usize, device: Device) -> Result<Losses, Failure> {
        let (experts, tokens) = (model.has_experts(), self.choices * sequence);
        let capacity = Capacity { tokens, keys: sequence, sampling: false, packing: false };
        let mut opened = device::open_for(device, model, capacity)?;
        let backend = opened.backend.as_mut();
        let model = model.open(backend, capacity)?;
        let ways = ways(experts);
        let mut hits = vec![0u64; ways.len()];
        let (mut inputs, mut targets, mut losses) = (vec![0; tokens], vec![0; tokens], vec![0.0; tokens]);
        for (question, &right) in self.right.iter().enumerate() {
            self.windows.fill(question * self.choices, &mut inputs, &mut targets);
            let pass = Batch::whole(self.choices, sequence);
            let scores: Vec<[f64; 2]> = match experts {
                true => {
                    let scores = model.score_experts(backend, pass, &inputs, &targets, &[]);
                    scores.iter().map(|score| score.experts).collect()
                }
                false => {
                    model.evaluate(backend, pass, &inputs, &targets, &[], &mut losses);
                    losses.iter().map(|&loss| [-f64::from(loss); 2]).collect()
                }
            };
            let sum = |row: usize, counted: bool| -> [f64; 2] {
                let of_row = row * sequence..(row + 1) * sequence;
                // After the answer there is padding, which says nothing.
                let last = targets[of_row.clone()].iter().rposition(|&target| target != IGNORE).unwrap_or(0);
                let wanted = of_row.take(last + 1).filter(|&i| (targets[i] != IGNORE) == counted);
                wanted.fold([0.0; 2], |sum, i| [sum[0] + scores[i][0], sum[1] + scores[i][1]])
            };
            let answers: Vec<_> = (0..self.choices).map(|row| sum(row, true)).collect();
            let prompt = sum(0, false);
            for (hits, &way) in hits.iter_mut().zip(ways) {
                *hits += u64::from(choose(way, &answers, prompt) == right);
            }
            backend.status()?;
        }
        Ok(shares(ways, hits, self.right.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_vote_with_their_shares_of_the_answers() {
        // The first is almost sure of 0, the second somewhat of 1; that all its answers are unlikelier does not count.
        let answers = [[-1.0, -51.0], [-6.0, -50.0], [-9.0, -58.0]];
        assert_eq!(choose(Ensemble::Online, &answers, [0.0; 2]), 0);
        assert_eq!(choose(Ensemble::Offline, &answers, [0.0; 2]), 1);
        assert_eq!(choose(Ensemble::Max, &answers, [0.0; 2]), 0);
        assert_eq!(choose(Ensemble::Mean, &answers, [0.0; 2]), 0);
        assert_eq!(choose(Ensemble::Posterior, &answers, [-40.0, -20.0]), 1, "the prompt speaks for the second");
        assert_eq!(choose(Ensemble::Posterior, &answers, [-20.0, -40.0]), 0);
    }
}
