//! A folder of training files and a configuration that reads them.

use std::fs;
use tetrad::config::Config;
use tetrad::data::Prepared;

pub struct Place {
    pub folder: tempfile::TempDir,
    pub config: Config,
}

impl Place {
    /// Trains on `files`, all of them, in rows of so many tokens.
    pub fn with_rows(files: &[(&str, impl AsRef<[u8]>)], sequence: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
            config.data.train.push(folder.path().join(name).display().to_string());
        }
        config.data.cache = folder.path().join("cache");
        config.data.validation_fraction = 0.0;
        config.train.sequence = sequence;
        Place { folder, config }
    }

    pub fn prepared(&self) -> Prepared {
        Prepared::new(&self.config.data, &self.config.tokenizer, self.config.model.vocab, &mut |_| {})
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The message of a refusal, the folder left out.
    pub fn refusal(&self) -> String {
        let prepared = Prepared::new(&self.config.data, &self.config.tokenizer, self.config.model.vocab, &mut |_| {});
        let message = prepared
            .and_then(|prepared| prepared.batches(self.config.train.sequence, self.config.run.seed))
            .expect_err("this is wrong");
        message.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}
