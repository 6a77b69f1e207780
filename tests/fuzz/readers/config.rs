//! Configurations in TOML; one that is read is written and read again.

use std::path::Path;
use tetrad::config::Config;

pub fn run(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return "no text".into() };
    let parse = |text: &str| Config::parse(Path::new("run.toml"), text);
    match parse(text) {
        Ok(config) => {
            let again = parse(&config.to_toml()).map_err(|error| error.to_string());
            assert_eq!(again.as_ref(), Ok(&config));
            "read".into()
        }
        Err(error) => error.to_string(),
    }
}
