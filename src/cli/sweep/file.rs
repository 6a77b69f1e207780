//! The file of a sweep: what is varied, and the runs that follow.

use super::values::{Values, text};
use crate::cli::explained;
use crate::cli::hint::Options;
use crate::cli::output::escape;
use crate::cli::runs::{fingerprint, fingerprint_from};
use crate::cli::train::start::InitFrom;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use tetrad::checkpoint::{ADAPTER, MODEL};
use tetrad::config::Config;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Runs of a sweep at most: far more than anyone waits for, and few enough to be listed.
const MOST: usize = 10_000;

/// A sweep, read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// Where its run directories are.
    pub dir: PathBuf,
    /// The model that every run starts from, or the base of its adapter.
    from: Option<PathBuf>,
    /// Where finished runs are recorded, and found again.
    pub records: Option<PathBuf>,
    /// Texts that finished weights are scored on, by name.
    pub scores: BTreeMap<String, Vec<String>>,
    /// Keys whose best value is found with the first seed of an arm, and used with the others.
    pub tune: Vec<String>,
    /// All runs, in the order of the file.
    pub jobs: Vec<Job>,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub arm: String,
    /// What varies, but for the seed: keys and values as TOML.
    pub settings: BTreeMap<String, Value>,
    pub seed: u64,
    /// Whether it is of the first seed of its arm.
    pub first: bool,
    pub config: Config,
    /// Of the configuration, and of the weights that it starts from.
    pub fingerprint: String,
    /// Of those weights alone, if it starts from some.
    pub start: Option<String>,
}

/// What the configurations of a sweep begin with.
#[derive(Clone, Copy, Default)]
struct Base<'a> {
    /// A preset or a TOML file.
    config: Option<&'a str>,
    /// The model whose weights runs start from.
    from: Option<(&'a Path, &'a InitFrom)>,
}

impl Job {
    /// Its arm, settings and seed in a few words.
    pub(crate) fn name(&self) -> String {
        let settings = self.settings.iter().map(|(key, value)| format!(" {key}={}", text(value)));
        format!("{}{} seed={}", self.arm, settings.collect::<String>(), self.seed)
    }

    /// The file that it leaves when it is finished.
    pub(crate) fn outcome(&self) -> PathBuf {
        self.config.run.dir.join(if self.config.adapter.is_some() { ADAPTER } else { MODEL })
    }

    /// The settings as a record has them.
    pub(crate) fn settings_json(&self) -> BTreeMap<String, Json> {
        let json = |value: &Value| serde_json::to_value(value).unwrap_or_default();
        self.settings.iter().map(|(key, value)| (key.clone(), json(value))).collect()
    }

    /// What it has in common with the runs that differ from it in the keys of `tune` and in the seed only.
    pub(crate) fn family(&self, tune: &[String]) -> (String, Vec<(String, String)>) {
        let others = self.settings.iter().filter(|(key, _)| !tune.contains(key));
        (self.arm.clone(), others.map(|(key, value)| (key.clone(), text(value))).collect())
    }
}

/// The keys of an arm, and of the whole file.
#[derive(Clone, Debug, Default)]
struct Layer {
    set: BTreeMap<String, Value>,
    vary: BTreeMap<String, Values>,
    seeds: Option<Vec<u64>>,
}

impl Sweep {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong in it, or in the configuration of a run, and what is allowed.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let shown = escape(&path.to_string_lossy());
        let text = std::fs::read_to_string(path).map_err(|e| format!("{shown}: cannot be read: {e}"))?;
        let document = DeTable::parse(&text).map_err(|e| format!("{shown}: not valid TOML: {e}"))?;
        let table: Table = text.parse().map_err(|e| format!("{shown}: not valid TOML: {e}"))?;
        let stem = path.file_stem().map_or_else(|| "sweep".into(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(table, &order(document.get_ref()), &stem).map_err(|what| format!("{shown}: {what}"))
    }

    /// `order` has the names of the arms as they follow each other in the file: parsed tables are sorted by name.
    fn parse(mut table: Table, order: &[String], stem: &str) -> Result<Self, String> {
        let base = take_text(&mut table, "base")?;
        let dir = take_text(&mut table, "dir")?.unwrap_or_else(|| format!("runs/{stem}"));
        let from = take_text(&mut table, "from")?.map(PathBuf::from);
        let records = take_text(&mut table, "records")?.map(PathBuf::from);
        let tune = take_texts(&mut table, "tune")?;
        let mut scores = BTreeMap::new();
        for (name, files) in take_table(&mut table, "score")?.unwrap_or_default() {
            check_name("score", &name)?;
            scores.insert(name.clone(), texts(&format!("score.{name}"), files)?);
        }
        let arms = take_table(&mut table, "arm")?;
        let common = layer(&mut table, "")?;
        if let Some(key) = table.keys().next() {
            let known = "base, from, dir, records, seeds, tune, [set], [vary], [score], [arm.NAME]";
            return Err(format!("{} is not known; {known} are", escape(key)));
        }
        let mut layers = Vec::new();
        for (name, value) in arms.unwrap_or_else(|| [("all".into(), Value::Table(Table::new()))].into_iter().collect())
        {
            check_name("arm", &name)?;
            let Value::Table(mut table) = value else {
                return Err(format!("arm.{name} = {value}: is a table; write [arm.{name}.set] and its keys below"));
            };
            let layer = layer(&mut table, &format!("arm.{name}."))?;
            if let Some(key) = table.keys().next() {
                return Err(format!("arm.{name}.{} is not known; seeds, set and vary are", escape(key)));
            }
            layers.push((name, layer));
        }
        layers.sort_by_key(|(name, _)| order.iter().position(|known| known == name));
        let model = from
            .as_deref()
            .map(InitFrom::open)
            .transpose()
            .map_err(|e| format!("from: {}", explained(e.as_ref(), Options::Keys)))?;
        let base = Base { config: base.as_deref(), from: from.as_deref().zip(model.as_ref()) };
        let mut sweep = Self { dir: dir.into(), from: from.clone(), records, scores, tune, jobs: Vec::new() };
        for (name, layer) in layers {
            sweep.add_arm(&name, &common, layer, base)?;
        }
        sweep.check_tuned()?;
        Ok(sweep)
    }

    /// What a command that trains a run is told of the weights to start from.
    pub(super) fn start_args(&self) -> impl Iterator<Item = &OsStr> {
        self.from.iter().flat_map(|from| [OsStr::new("--from"), from.as_os_str()])
    }

    fn add_arm(&mut self, name: &str, common: &Layer, own: Layer, base: Base<'_>) -> Result<(), String> {
        let mut set = common.set.clone();
        set.extend(own.set);
        let mut vary = common.vary.clone();
        vary.extend(own.vary);
        // What an arm sets is not varied, and what it varies is not set.
        vary.retain(|key, _| !set.contains_key(key) || common.set.contains_key(key));
        set.retain(|key, _| !vary.contains_key(key));
        let seeds = own.seeds.or_else(|| common.seeds.clone()).unwrap_or_else(|| vec![1]);
        let mut combinations = vec![BTreeMap::new()];
        for (key, values) in &vary {
            let with = |one: BTreeMap<String, Value>| {
                values.0.iter().map(move |value| {
                    let mut more = one.clone();
                    more.insert(key.clone(), value.clone());
                    more
                })
            };
            combinations = combinations.into_iter().flat_map(with).collect();
        }
        let count = self.jobs.len() + combinations.len() * seeds.len();
        if count > MOST {
            return Err(format!("{count} runs up to arm {name}; at most {MOST} are possible"));
        }
        for settings in combinations {
            for (i, &seed) in seeds.iter().enumerate() {
                self.jobs.push(self.job(name, &set, settings.clone(), (seed, i == 0), base)?);
            }
        }
        Ok(())
    }

    fn job(
        &self,
        arm: &str,
        set: &BTreeMap<String, Value>,
        settings: BTreeMap<String, Value>,
        (seed, first): (u64, bool),
        base: Base<'_>,
    ) -> Result<Job, String> {
        let mut sets: Vec<String> = set.iter().chain(&settings).map(|(key, value)| format!("{key}={value}")).collect();
        sets.push(format!("run.seed={seed}"));
        let start = base.from.map(|(_, model)| model.checkpoint.fingerprint().to_string());
        let (arm, config) = (arm.into(), Config::default());
        let mut job = Job { arm, settings, seed, first, config, fingerprint: String::new(), start };
        job.config = base.load(&sets).map_err(|e| format!("run {}: {e}", job.name()))?;
        if job.config.train.is_open() {
            let name = job.name();
            return Err(format!(
                "run {name}: a sweep compares runs of a known shape; set train.steps, train.batch and \
                                train.sequence instead of what follows from the text"
            ));
        }
        job.fingerprint = fingerprint_from(fingerprint(&job.config), job.start.as_deref());
        job.config.run.dir = self.place(&job);
        Ok(job)
    }

    /// `dir/ARM/KEY=VALUE/.../seed=N`.
    fn place(&self, job: &Job) -> PathBuf {
        let mut place = self.dir.join(&job.arm);
        for (key, value) in &job.settings {
            place.push(format!("{key}={}", in_path(&text(value))));
        }
        place.join(format!("seed={}", job.seed))
    }

    /// Directories must differ, and what is tuned must vary.
    fn check_tuned(&self) -> Result<(), String> {
        let mut places = BTreeSet::new();
        if let Some(job) = self.jobs.iter().find(|job| !places.insert(&job.config.run.dir)) {
            return Err(format!("two runs are {}; a value or a seed is listed twice", job.name()));
        }
        match self.tune.iter().find(|key| !self.jobs.iter().any(|job| job.settings.contains_key(*key))) {
            Some(key) => Err(format!("tune names {}, which no [vary] has", escape(key))),
            None => Ok(()),
        }
    }
}

impl Base<'_> {
    /// The configuration of a run.
    fn load(&self, sets: &[String]) -> Result<Config, String> {
        let Some((path, model)) = self.from else {
            return Config::load(self.config, sets).map_err(|e| e.to_string());
        };
        let mut config = Config::load_tuning(model.base(), self.config, sets).map_err(|e| e.to_string())?;
        // Written by the run that needs it.
        model.place_tokenizer(&mut config, true).map_err(|e| e.to_string())?;
        if config.adapter.is_some() {
            config.adapter.base = Some(path.into());
        }
        Ok(config)
    }
}

/// The names of the arms in the order of the file.
fn order(document: &DeTable<'_>) -> Vec<String> {
    let Some(DeValue::Table(arms)) = document.get("arm").map(|arms| arms.get_ref()) else { return Vec::new() };
    let mut arms: Vec<_> = arms.iter().map(|(name, _)| (name.span().start, name.get_ref().to_string())).collect();
    arms.sort();
    arms.into_iter().map(|(_, name)| name).collect()
}

/// Takes `set`, `vary` and `seeds` out of a table.
fn layer(table: &mut Table, place: &str) -> Result<Layer, String> {
    let mut layer = Layer::default();
    for (key, value) in leaves(take_table(table, "set")?, &format!("{place}set"))? {
        own_key(&key, &format!("{place}set"))?;
        layer.set.insert(key, value);
    }
    for (key, value) in leaves(take_table(table, "vary")?, &format!("{place}vary"))? {
        own_key(&key, &format!("{place}vary"))?;
        let values = Values::read(&value).map_err(|what| format!("{place}vary.{key} {what}"))?;
        layer.vary.insert(key, values);
    }
    if let Some(value) = table.remove("seeds") {
        let values = Values::read(&value).map_err(|what| format!("{place}seeds {what}"))?;
        let seed = |value: &Value| value.as_integer().and_then(|seed| u64::try_from(seed).ok());
        let seeds: Option<Vec<u64>> = values.0.iter().map(seed).collect();
        layer.seeds = Some(seeds.ok_or_else(|| format!("{place}seeds = {value}: seeds are whole numbers, 0 or more"))?);
    }
    Ok(layer)
}

/// `table.key` with its value, whether it was written as a dotted key, in quotes, or as a table in a table.
fn leaves(table: Option<Table>, place: &str) -> Result<Vec<(String, Value)>, String> {
    let mut found = Vec::new();
    for (name, value) in table.unwrap_or_default() {
        match (name.contains('.'), value) {
            (true, value) => found.push((name, value)),
            (false, Value::Table(entries)) => {
                found.extend(entries.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            (false, value) => {
                let name = escape(&name);
                return Err(format!("{place}.{name} = {value}: a key of a configuration is written table.key"));
            }
        }
    }
    Ok(found)
}

/// Keys that a sweep itself decides.
fn own_key(key: &str, place: &str) -> Result<(), String> {
    match key {
        "run.dir" => Err(format!("{place}.run.dir is chosen by the sweep; name its folder with dir at the top")),
        "run.seed" => Err(format!("{place}.run.seed is what seeds = [1, 2, 3] is for")),
        _ => Ok(()),
    }
}

/// Names become folders.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    let name = escape(name);
    Err(format!("{what}.{name:?}: a name has letters, digits, '-', '_' and '.', and does not begin with '.'"))
}

/// Text as part of a path.
fn in_path(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
    text.chars().map(plain).collect()
}

fn take_text(table: &mut Table, key: &str) -> Result<Option<String>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(other) => Err(format!("{key} = {other}: must be a text in quotes")),
    }
}

fn take_texts(table: &mut Table, key: &str) -> Result<Vec<String>, String> {
    table.remove(key).map_or_else(|| Ok(Vec::new()), |value| texts(key, value))
}

/// One text or a list of them.
fn texts(key: &str, value: Value) -> Result<Vec<String>, String> {
    let wrong = format!("{key} = {value}: must be a text in quotes, or a list of them");
    let all: Option<Vec<String>> = match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.into_iter().map(|item| item.as_str().map(String::from)).collect(),
        _ => None,
    };
    all.filter(|all| !all.is_empty()).ok_or(wrong)
}

fn take_table(table: &mut Table, key: &str) -> Result<Option<Table>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::Table(table)) => Ok(Some(table)),
        Some(other) => Err(format!("{key} = {other}: is a table; write [{key}] on a line of its own")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: &str) -> Result<Sweep, String> {
        let document = DeTable::parse(text).unwrap();
        Sweep::parse(text.parse().unwrap(), &order(document.get_ref()), "first")
    }

    const LADDER: &str = r#"
        seeds = [1, 2]
        tune = "optimizer.lr"
        records = "records.jsonl"
        [set]
        train.steps = 100
        "train.schedule" = "linear"
        [vary]
        optimizer.lr = { from = 1e-3, to = 4e-3, factor = 2 }
        [score]
        novel = "novel.txt"
        [arm.packed]
        [arm.f32]
        seeds = [1]
        set.storage.weights = "f32"
        vary.optimizer.lr = [0.002]
    "#;

    #[test]
    fn arms_settings_and_seeds_make_runs() {
        let sweep = sweep(LADDER).unwrap();
        let names: Vec<_> = sweep.jobs.iter().map(Job::name).collect();
        assert_eq!(
            names,
            [
                "packed optimizer.lr=0.001 seed=1",
                "packed optimizer.lr=0.001 seed=2",
                "packed optimizer.lr=0.002 seed=1",
                "packed optimizer.lr=0.002 seed=2",
                "packed optimizer.lr=0.004 seed=1",
                "packed optimizer.lr=0.004 seed=2",
                "f32 optimizer.lr=0.002 seed=1",
            ]
        );
        let job = &sweep.jobs[1];
        assert_eq!(job.config.run.dir, Path::new("runs/first/packed/optimizer.lr=0.001/seed=2"));
        assert_eq!((job.config.train.steps, job.config.train.warmup, job.config.run.seed), (100, 10, 2));
        assert_eq!((job.first, sweep.jobs[0].first), (false, true));
        assert_eq!(sweep.jobs[0].family(&sweep.tune), sweep.jobs[5].family(&sweep.tune));
        assert_ne!(sweep.jobs[0].family(&sweep.tune), sweep.jobs[6].family(&sweep.tune));
        assert_eq!(sweep.scores["novel"], ["novel.txt"]);
    }

    #[test]
    fn a_sweep_without_arms_is_one_arm() {
        let sweep = sweep("[vary]\nstorage.group = [32, 64]").unwrap();
        let places: Vec<_> = sweep.jobs.iter().map(|job| job.config.run.dir.to_str().unwrap()).collect();
        assert_eq!(places, ["runs/first/all/storage.group=32/seed=1", "runs/first/all/storage.group=64/seed=1"]);
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        for (text, said) in [
            ("sed = [1]", "sed is not known; base, from, dir, records, seeds, tune, [set]"),
            ("from = 'none.tetrad'", "from: none.tetrad: no such file"),
            ("seeds = [1.5]", "seeds = [1.5]: seeds are whole numbers"),
            ("[set]\nsteps = 3", "set.steps = 3: a key of a configuration is written table.key"),
            ("[set]\nrun.dir = 'x'", "set.run.dir is chosen by the sweep"),
            ("[vary]\nrun.seed = [1, 2]", "vary.run.seed is what seeds"),
            (
                "[set]\ntrain.stepz = 3",
                "run all seed=1: train.stepz (--set): no such key (did you mean `train.steps`?)",
            ),
            ("[vary]\ntrain.steps = [3, 0]", "run all train.steps=0 seed=1: train.steps = 0"),
            ("[vary]\ntrain.steps = []", "vary.train.steps = []"),
            ("[vary]\ntrain.steps = [3, 3]", "two runs are all train.steps=3 seed=1"),
            ("[arm.'a/b']", "a name has letters"),
            ("[arm]\na = 1", "arm.a = 1: is a table"),
            ("[arm.a]\nsteps = 1", "arm.a.steps is not known; seeds, set and vary are"),
            ("tune = 'optimizer.lr'", "tune names optimizer.lr, which no [vary] has"),
            ("seeds = { from = 1, to = 100000, step = 1 }", "has more than 1000 values"),
            (
                "seeds = { from = 1, to = 1000, step = 1 }\nvary.train.batch = { from = 1, to = 11, step = 1 }",
                "11000 runs up to arm all; at most 10000 are possible",
            ),
        ] {
            let found = sweep(text).unwrap_err();
            assert!(found.contains(said), "{text}: {found}");
        }
    }
}
