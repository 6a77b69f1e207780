//! `[continual]`: tasks that one adapter learns one after the other, and how what was learned accumulates.

use super::Config;
use crate::data::SourceConfig;
use crate::error::{Problems, number};
use crate::model::{AdapterConfig, AdapterKind, AdapterScale, AdapterWeights, Ensemble, MatrixSite, ModelConfig};
use serde::{Deserialize, Serialize};

/// `[continual]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContinualConfig {
    /// The ways of learning that are compared, by the words of [`Method`]; each is a chain of runs of its own.
    pub methods: Vec<String>,
    /// `ema`: the share of the offline module that a task leaves of it.
    pub keep: f64,
    /// `ema`: the share that a step leaves of it, in place of `keep`; 0: what follows from `keep`.
    pub alpha: f64,
    /// Steps at the start of a later task in which nothing moves but the offline module.
    pub freeze: u64,
    /// How both modules predict together.
    pub ensemble: Ensemble,
    /// `replay`: the share of the rows that are of earlier tasks.
    pub replay: f64,
    /// `o-lora`: the weight of the penalty on what is not orthogonal.
    pub orthogonal: f64,
    /// Held-out text of what the base was trained on: how much of that is retained.
    pub base: Vec<String>,
    /// The tasks, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task: Vec<TaskConfig>,
    /// The task that a run trains. Not a key: `tetrad continual` sets it.
    #[serde(skip)]
    pub stage: Option<Stage>,
}

/// One entry of `[[continual.task]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskConfig {
    /// Its name, which is that of its folder.
    pub name: String,
    /// Files and globs to train on.
    pub train: Vec<String>,
    /// Files and globs to score on; empty: the tail of the training text, which is then never trained on.
    pub validation: Vec<String>,
    /// Steps; 0: `train.steps`.
    pub steps: u64,
    /// The answers among which a model is to choose, if the task has any: `validation` then holds prompts and completions,
    /// each of which is one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Whether the share of the answers in `validation` is measured that a model would write word for word: greedily, token by
    /// token, to their end. It then holds prompts with their right answers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// Ways to learn tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// LAE (arXiv 2303.10070): one adapter learns task after task, and after every step an offline copy of it follows by an
    /// exponential moving average. Its online module alone is sequential training.
    Ema,
    /// The same with an offline module that is the mean of the adapter at the ends of the tasks.
    Mean,
    /// One adapter learns task after task, with a few rows of earlier tasks among those of each.
    Replay,
    /// One adapter learns all tasks at once, for as many steps: what the others are measured by.
    Joint,
    /// O-LoRA (arXiv 2310.14152): every task adds a pair of matrices, which is kept orthogonal to those of earlier tasks.
    OLora,
    /// No adapter: the packed model itself is trained on task after task.
    Full,
}

impl Method {
    /// All.
    pub const ALL: [Self; 6] = [Self::Ema, Self::Mean, Self::Replay, Self::Joint, Self::OLora, Self::Full];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ema => "ema",
            Self::Mean => "mean",
            Self::Replay => "replay",
            Self::Joint => "joint",
            Self::OLora => "o-lora",
            Self::Full => "full",
        }
    }

    /// Whether it has an offline module.
    pub fn accumulates(self) -> bool {
        matches!(self, Self::Ema | Self::Mean)
    }
}

/// What makes a run one task of a sequence; part of its state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Number of the task, from 1.
    pub task: u64,
    /// Steps at its start in which nothing moves but the offline module.
    pub freeze: u64,
    /// The offline module, which exists from the second task on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<Offline>,
    /// How both modules predict together.
    pub ensemble: Ensemble,
    /// The pairs of earlier tasks, in O-LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orthogonal: Option<Orthogonal>,
}

/// Rows of an adapter that stay as they are, and what keeps the others orthogonal to them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orthogonal {
    /// The first rows of every A and of every transposed B.
    pub rows: u64,
    /// The weight of the sum of the magnitudes of their products with the other rows of A, in the loss.
    pub weight: f64,
}

/// How the offline module follows the online one: `offline = keep offline + (1 - keep) online`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offline {
    /// What a step keeps of it.
    pub keep: f64,
    /// What the last step of the task keeps of it besides.
    pub keep_at_end: f64,
}

impl Stage {
    /// Whether what it says can be true, in a run of `steps` steps; if not, what cannot.
    pub fn problem(&self, steps: u64) -> Option<String> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        match self {
            Self { task, .. } if !(1..=MOST_TASKS as u64).contains(task) => {
                Some(format!("continual.task is {task}; tasks are counted from 1 to {MOST_TASKS}"))
            }
            Self { freeze, .. } if *freeze > steps => {
                Some(format!("continual.freeze is {freeze}, and the run has {steps} steps"))
            }
            Self { offline: Some(Offline { keep, keep_at_end }), .. } if !(share(*keep) && share(*keep_at_end)) => {
                Some(format!("continual.offline keeps {keep} a step and {keep_at_end} at the end; shares are 0 to 1"))
            }
            Self { orthogonal: Some(Orthogonal { weight, .. }), .. } if !(*weight >= 0.0 && weight.is_finite()) => {
                Some(format!("continual.orthogonal has the weight {weight}; at least 0 is possible"))
            }
            _ => None,
        }
    }
}

/// Tasks at most.
const MOST_TASKS: usize = 1000;

impl Default for ContinualConfig {
    fn default() -> Self {
        Self {
            methods: vec![Method::Ema.name().into()],
            keep: 0.5,
            alpha: 0.0,
            freeze: 0,
            ensemble: Ensemble::Posterior,
            replay: 0.01,
            orthogonal: 0.5,
            base: Vec::new(),
            task: Vec::new(),
            stage: None,
        }
    }
}

impl ContinualConfig {
    /// The methods that are named; those that [`ContinualConfig::problems`] refuses are left out.
    pub fn methods(&self) -> Vec<Method> {
        let of = |name: &String| Method::ALL.into_iter().find(|method| method.name() == name);
        self.methods.iter().filter_map(of).collect()
    }

    /// Keys that are set although there is no task, without which nothing reads them.
    pub(super) fn unread(&self) -> Problems {
        let mut problems = Problems::default();
        if self.task.is_empty() {
            let json = |config: &Self| serde_json::to_value(config).expect("settings are JSON");
            let (own, default) = (json(self), json(&Self::default()));
            for (key, value) in own.as_object().into_iter().flatten() {
                let reason = "is read with tasks only, and [continual] names no task; add [[continual.task]] tables or remove the key";
                problems.need(default[key] == *value, &format!("continual.{key}"), value, reason);
            }
        }
        problems
    }

    /// Every mistake that its values show.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        let words = Method::ALL.map(Method::name);
        for (i, name) in self.methods.iter().enumerate() {
            let reason = format_args!("methods are {}, each once", words.join(", "));
            let known = words.contains(&name.as_str()) && !self.methods[..i].contains(name);
            problems.need(known, "continual.methods", format_args!("{name:?}"), reason);
        }
        let reason = "names no method; \"ema\" is LAE's";
        problems.need(!self.methods.is_empty(), "continual.methods", "[]", reason);
        let reason = "must be 0 to 1: the share of the offline module that a task leaves of it";
        problems.need((0.0..=1.0).contains(&self.keep), "continual.keep", number(self.keep), reason);
        let reason =
            "must be at least 0 and below 1: the share that a step leaves of it; 0 follows from continual.keep";
        problems.need((0.0..1.0).contains(&self.alpha), "continual.alpha", number(self.alpha), reason);
        let reason = "must be above 0 and below 1: the share of the rows that are of earlier tasks";
        problems.need(self.replay > 0.0 && self.replay < 1.0, "continual.replay", number(self.replay), reason);
        let reason = "must be a number of at least 0: the weight of a penalty";
        let sound = self.orthogonal >= 0.0 && self.orthogonal.is_finite();
        problems.need(sound, "continual.orthogonal", number(self.orthogonal), reason);
        let count = self.task.len();
        let reason = format_args!("at most {MOST_TASKS} tasks are possible");
        problems.need(count <= MOST_TASKS, "continual.task", format_args!("{count} tasks"), reason);
        for (i, task) in self.task.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let sound = !task.name.is_empty() && !task.name.starts_with('.') && task.name.chars().all(plain);
            let (found, key) = (format!("name = {:?}", task.name), "continual.task");
            let reason = "must be letters, digits, '-', '_' and '.', since it names a folder";
            problems.need(sound, key, &found, reason);
            let reason = "is the name of an earlier task already";
            problems.need(!self.task[..i].iter().any(|other| other.name == task.name), key, &found, reason);
            let reason = format_args!("of task {:?} names no file to train on", task.name);
            problems.need(!task.train.is_empty(), key, "train = []", reason);
            let distinct = task.choices.iter().enumerate().all(|(i, choice)| !task.choices[..i].contains(choice));
            let plain = task.choices.iter().all(|choice| !choice.is_empty() && choice.trim() == choice);
            let reason = "must be two or more different answers without blanks around them, beside validation = [...]";
            let many = task.choices.is_empty() || task.choices.len() > 1 && !task.validation.is_empty();
            problems.need(distinct && plain && many, key, format_args!("choices = {:?}", task.choices), reason);
            let reason =
                "needs validation = [...] with prompts and their answers, and no choices, which are another measure";
            let sound = !task.exact || task.choices.is_empty() && !task.validation.is_empty();
            problems.need(sound, key, "exact = true", reason);
        }
        problems
    }
}

impl AdapterConfig {
    /// What of it O-LoRA cannot do, which makes one pair of the pairs of several tasks.
    fn orthogonal_problems(&self, model: &ModelConfig, problems: &mut Problems) {
        let reason = "has no rows that a task could add; \"o-lora\" needs \"lora\"";
        let kind = format!("{:?}", self.kind).to_lowercase();
        problems.need(self.kind == AdapterKind::Lora, "adapter.kind", format_args!("{kind:?}"), reason);
        let plain = self.rank_pattern.is_empty() && self.alpha_pattern.is_empty();
        let reason = "gives matrices other ranks or factors, which \"o-lora\" cannot add to for each task";
        problems.need(plain, "adapter.rank_pattern", format_args!("{:?}", self.rank_pattern), reason);
        let reason = "trains one factor for the pairs of all tasks; \"o-lora\" needs \"alpha/r\" or \"rslora\"";
        problems.need(self.scale != AdapterScale::Learned, "adapter.scale", "\"learned\"", reason);
        let beside_embedding = self.sites(model).iter().any(|site| site.matrix == MatrixSite::Embedding);
        let reason =
            "adds rows to pairs of matrices, and those of the embedding are columns; take it out of adapter.targets";
        problems.need(!beside_embedding, "continual.methods", "\"o-lora\"", reason);
        let reason = "rounds what earlier tasks learned; \"o-lora\" needs \"f32\"";
        problems.need(self.weights == AdapterWeights::F32, "adapter.weights", "\"bf16\"", reason);
    }
}

impl Config {
    /// Mistakes of `[continual]` beside the adapter.
    pub(super) fn continual_problems(&self) -> Problems {
        let mut problems = self.continual.problems();
        let asked = self.continual.methods().contains(&Method::OLora);
        if asked && self.adapter.is_some() && !self.continual.task.is_empty() {
            self.adapter.orthogonal_problems(&self.model, &mut problems);
            let decay = self.optimizer.weight_decay;
            let reason = "would move the rows that earlier tasks learned, which \"o-lora\" leaves as they are; set 0";
            problems.need(decay == 0.0, "optimizer.weight_decay", decay, reason);
        }
        problems
    }

    /// The steps of a task.
    pub fn task_steps(&self, task: &TaskConfig) -> u64 {
        if task.steps > 0 { task.steps } else { self.train.steps }
    }

    /// The run of a task, counted from 0, by a method: its text, its steps, its folder below `run.dir`, and what becomes of
    /// the offline module. [`Method::Joint`] has one run, of all tasks.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn task_run(&self, method: Method, number: usize) -> Self {
        let (continual, mut config) = (&self.continual, self.clone());
        let task = &continual.task[number];
        let sources = |tasks: &[TaskConfig], weight: f64| -> Vec<SourceConfig> {
            let weight = weight / tasks.len().max(1) as f64;
            tasks.iter().map(|task| SourceConfig { files: task.train.clone(), weight }).collect()
        };
        let folder = match method {
            Method::Joint => "all".into(),
            _ => format!("{}-{}", number + 1, task.name),
        };
        config.run.dir = self.run.dir.join(method.name()).join(folder);
        // Dropout and rounding are not to repeat themselves in every task.
        config.run.seed = self.run.seed.wrapping_add(number as u64) & i64::MAX as u64;
        config.train.steps = self.task_steps(task);
        (config.data.train, config.data.validation) = (task.train.clone(), task.validation.clone());
        config.data.source = Vec::new();
        match method {
            Method::Replay if number > 0 => {
                config.data.source = sources(&continual.task[..number], continual.replay);
                config.data.source.extend(sources(std::slice::from_ref(task), 1.0 - continual.replay));
            }
            Method::Joint => {
                config.data.source = sources(&continual.task, 1.0);
                config.data.validation = continual.task.iter().flat_map(|task| task.validation.clone()).collect();
                config.train.steps = continual.task.iter().map(|task| self.task_steps(task)).sum();
            }
            _ => {}
        }
        if !config.data.source.is_empty() {
            config.data.train.clear();
        }
        // Texts with held-out files of their own and texts without cannot share a run's validation.
        if config.data.source.len() > 1 && continual.task.iter().any(|task| task.validation.is_empty()) {
            config.data.validation.clear();
        }
        if method == Method::Full {
            config.adapter = AdapterConfig::default();
        }
        if method == Method::OLora {
            // The factor of the pairs stays what it is for one of them.
            let pairs = number + 1;
            config.adapter.alpha *= match config.adapter.scale {
                AdapterScale::RsLora => (pairs as f64).sqrt(),
                _ => pairs as f64,
            };
            config.adapter.rank *= pairs;
        }
        config.train.epochs = 0.0;
        config.train.tokens = 0;
        config.train.settle_warmup();
        config.train.warmup = config.train.warmup.min(config.train.steps);
        config.continual = ContinualConfig::default();
        let staged = method.accumulates() || method == Method::OLora;
        config.continual.stage = staged.then(|| self.stage(method, number, config.train.steps));
        config
    }

    fn stage(&self, method: Method, number: usize, steps: u64) -> Stage {
        let ContinualConfig { keep, alpha, freeze, ensemble, .. } = self.continual;
        let offline = match method {
            Method::Ema if alpha > 0.0 => Offline { keep: alpha, keep_at_end: 1.0 },
            Method::Ema => Offline { keep: keep.powf(1.0 / steps.max(1) as f64), keep_at_end: 1.0 },
            // After task k it is the mean of k modules, of which the last weighs 1 / k.
            _ => Offline { keep: 1.0, keep_at_end: number as f64 / (number + 1) as f64 },
        };
        let later = number > 0;
        let freeze = if later { freeze.min(steps) } else { 0 };
        let task = number as u64 + 1;
        if method == Method::OLora {
            let rows = (self.adapter.rank * number) as u64;
            let orthogonal = later.then_some(Orthogonal { rows, weight: self.continual.orthogonal });
            return Stage { task, freeze: 0, offline: None, ensemble, orthogonal };
        }
        Stage { task, freeze, offline: later.then_some(offline), ensemble, orthogonal: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Config {
        let mut config = Config::default();
        let task =
            |name: &str| TaskConfig { name: name.into(), train: vec![format!("{name}.txt")], ..TaskConfig::default() };
        config.continual.task = ["a", "b", "c"].map(task).into();
        (config.train.steps, config.continual.freeze, config.run.seed) = (50, 4, 7);
        config.continual.task[1].steps = 20;
        config
    }

    #[test]
    fn the_offline_module_begins_with_the_second_task_and_keeps_its_share_of_each() {
        let config = three();
        let stage = |method, number| config.task_run(method, number).continual.stage.unwrap();
        assert_eq!(stage(Method::Ema, 0).offline, None);
        let second = stage(Method::Ema, 1);
        let kept = second.offline.unwrap().keep.powi(20);
        assert!((kept - 0.5).abs() < 1e-12 && second.task == 2 && second.freeze == 4, "{kept}");
        let of_mean = [1, 2].map(|number| stage(Method::Mean, number).offline.unwrap());
        assert_eq!(of_mean.map(|offline| offline.keep_at_end), [0.5, 2.0 / 3.0]);
        assert!(of_mean.iter().all(|offline| offline.keep == 1.0));
        let mut given = config.clone();
        given.continual.alpha = 0.9999;
        assert_eq!(given.task_run(Method::Ema, 2).continual.stage.unwrap().offline.unwrap().keep, 0.9999);
    }

    #[test]
    fn every_method_trains_on_its_texts_in_a_folder_of_its_own() {
        let config = three();
        let run = config.task_run(Method::Replay, 2);
        let sources: Vec<_> = run.data.source.iter().map(|s| (s.files[0].as_str(), s.weight)).collect();
        assert_eq!(sources, [("a.txt", 0.005), ("b.txt", 0.005), ("c.txt", 0.99)]);
        assert!(run.data.train.is_empty() && run.run.dir.ends_with("replay/3-c") && run.run.seed == 9);
        let joint = config.task_run(Method::Joint, 0);
        assert_eq!((joint.train.steps, joint.data.source.len()), (120, 3));
        let full = config.task_run(Method::Full, 1);
        assert!(!full.adapter.is_some() && full.continual.stage.is_none() && full.data.train == ["b.txt"]);
    }

    #[test]
    fn mistakes_are_named() {
        let key = |edit: fn(&mut ContinualConfig)| {
            let mut config = three().continual;
            edit(&mut config);
            config.problems().0.first().map(|problem| problem.key.clone())
        };
        assert_eq!(key(|_| {}), None);
        assert_eq!(key(|c| c.methods = vec!["lae".into()]).as_deref(), Some("continual.methods"));
        assert_eq!(key(|c| c.methods = vec!["ema".into(), "ema".into()]).as_deref(), Some("continual.methods"));
        assert_eq!(key(|c| c.keep = 1.5).as_deref(), Some("continual.keep"));
        assert_eq!(key(|c| c.alpha = 1.0).as_deref(), Some("continual.alpha"));
        assert_eq!(key(|c| c.replay = 0.0).as_deref(), Some("continual.replay"));
        assert_eq!(key(|c| c.task[1].name = "a".into()).as_deref(), Some("continual.task"));
        assert_eq!(key(|c| c.task[1].name = "../b".into()).as_deref(), Some("continual.task"));
        assert_eq!(key(|c| c.task[2].train.clear()).as_deref(), Some("continual.task"));
    }
}
