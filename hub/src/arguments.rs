//! Command line and environment, which override `hub.toml`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use gripline_hub::config::{Config, RawConfig};

/// Holds client connections for origins that speak GRIP, and pushes published items to them.
///
/// A client's request goes to the origin. If the answer carries `Grip-Hold: stream` and
/// `Grip-Channel: updates`, the client stays connected, and what is published to the channel
/// `updates` is sent to it.
#[derive(Debug, Parser)]
#[command(
    name = "gripline-hub",
    version,
    after_help = "\
Try it with an origin on port 8080:
  gripline-hub --origin http://127.0.0.1:8080 --sig-key changeme
  curl -N http://127.0.0.1:7999/stream
  curl http://127.0.0.1:5561/publish/ -d '{\"items\": [{\"channel\": \"updates\", \"formats\": {\"http-stream\": {\"content\": \"hello\\n\"}}}]}'

A flag overrides its environment variable, which overrides hub.toml, which overrides the default.
All settings with their defaults: gripline-hub --print-config"
)]
pub(crate) struct Arguments {
    /// Address for clients, IP:PORT [default: 127.0.0.1:7999]
    #[arg(long, value_name = "ADDRESS", env = "GRIPLINE_LISTEN")]
    listen: Option<String>,

    /// Address for publishers, loopback only unless they are authenticated
    /// [default: 127.0.0.1:5561]
    #[arg(long, value_name = "ADDRESS", env = "GRIPLINE_CONTROL")]
    control: Option<String>,

    /// Path that publishers may write before /publish/
    #[arg(long, value_name = "PATH", env = "GRIPLINE_CONTROL_BASE")]
    control_base: Option<String>,

    /// Key that publishers send, or sign JWTs with, in the forms of --sig-key
    #[arg(
        long,
        value_name = "KEY",
        env = "GRIPLINE_CONTROL_KEY",
        hide_env_values = true
    )]
    control_key: Option<String>,

    /// Issuer that publishers' JWTs must name, with --control-key [default: any]
    #[arg(long, value_name = "NAME", env = "GRIPLINE_CONTROL_ISS")]
    control_iss: Option<String>,

    /// User that publishers send, with --control-password
    #[arg(long, value_name = "NAME", env = "GRIPLINE_CONTROL_USER")]
    control_user: Option<String>,

    /// Password that publishers send
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "GRIPLINE_CONTROL_PASSWORD",
        hide_env_values = true
    )]
    control_password: Option<String>,

    /// Where requests go: the edge or an application [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", env = "GRIPLINE_ORIGIN")]
    origin: Option<String>,

    /// How WebSockets reach --origin: over-http or native [default: over-http]
    #[arg(long, value_name = "HOW", env = "GRIPLINE_ORIGIN_WEBSOCKET")]
    origin_websocket: Option<String>,

    /// File with routes, one a line, in place of --origin: example.com localhost:8080
    #[arg(long, value_name = "FILE", env = "GRIPLINE_ROUTES")]
    routes: Option<String>,

    /// Key that signs requests to the origin: a text, base64:..., or file:PATH (PEM or hexadecimal)
    /// [default: a random one]
    #[arg(
        long,
        value_name = "KEY",
        env = "GRIPLINE_SIG_KEY",
        hide_env_values = true
    )]
    sig_key: Option<String>,

    /// Issuer named in signatures [default: pushpin]
    #[arg(long, value_name = "NAME", env = "GRIPLINE_SIG_ISS")]
    sig_iss: Option<String>,

    /// The hub-key of an edge in front, in the forms of --sig-key without PEM
    #[arg(
        long,
        value_name = "KEY",
        env = "GRIPLINE_EDGE_KEY",
        hide_env_values = true
    )]
    edge_key: Option<String>,

    /// Edge to purge before items go out, with --purge-key
    #[arg(long, value_name = "URL", env = "GRIPLINE_PURGE_EDGE")]
    purge_edge: Option<String>,

    /// The edge's purge key, in the forms of --sig-key without PEM
    #[arg(
        long,
        value_name = "KEY",
        env = "GRIPLINE_PURGE_KEY",
        hide_env_values = true
    )]
    purge_key: Option<String>,

    /// Service to purge by the CDN's own interface, in place of --purge-edge
    #[arg(long, value_name = "ID", env = "GRIPLINE_PURGE_FASTLY_SERVICE")]
    purge_fastly_service: Option<String>,

    /// Token for that: a text, file:PATH or env:NAME
    #[arg(
        long,
        value_name = "TOKEN",
        env = "GRIPLINE_PURGE_FASTLY_TOKEN",
        hide_env_values = true
    )]
    purge_fastly_token: Option<String>,

    /// Longest duration of a shutdown [default: 5s]
    #[arg(long, value_name = "DURATION", env = "GRIPLINE_DRAIN")]
    drain: Option<String>,

    /// Say in error answers what is wrong with an origin's response
    #[arg(long, env = "GRIPLINE_DEBUG")]
    debug: bool,

    /// File with settings
    #[arg(long, value_name = "hub.toml", env = "GRIPLINE_CONFIG")]
    config: Option<PathBuf>,

    /// Form of the log on standard error
    #[arg(long, value_enum, default_value = "human", env = "GRIPLINE_LOG")]
    pub(crate) log: LogFormat,

    /// What is logged: error, warn, info, debug or trace, also by part: info,gripline_hub=debug
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "GRIPLINE_LOG_LEVEL"
    )]
    pub(crate) log_level: String,

    /// Print a hub.toml with all settings and their defaults, and end
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Arguments {
    /// The checked configuration: the file's, overridden by flags and environment.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let (mut raw, directory) = self.file()?;
        self.override_settings(&mut raw);
        raw.check(&directory).map_err(|errors| {
            let mistakes = errors.mistakes().iter();
            let lines: Vec<String> = mistakes
                .map(|mistake| format!("{}: {}", self.place_of(&mistake.key), mistake.problem))
                .collect();
            anyhow::anyhow!("the configuration is not valid:\n  {}", lines.join("\n  "))
        })
    }

    /// Where a setting was made.
    fn place_of(&self, key: &str) -> String {
        let flags = [
            ("listen", "listen", &self.listen),
            ("control", "control", &self.control),
            ("control_base", "control-base", &self.control_base),
            ("control_auth.key", "control-key", &self.control_key),
            ("control_auth.iss", "control-iss", &self.control_iss),
            ("control_auth.user", "control-user", &self.control_user),
            (
                "control_auth.password",
                "control-password",
                &self.control_password,
            ),
            ("origin", "origin", &self.origin),
            (
                "origin_websocket",
                "origin-websocket",
                &self.origin_websocket,
            ),
            ("routes_file", "routes", &self.routes),
            ("drain", "drain", &self.drain),
            ("grip.sig_key", "sig-key", &self.sig_key),
            ("grip.sig_iss", "sig-iss", &self.sig_iss),
            ("edge.key", "edge-key", &self.edge_key),
            ("purge.edge", "purge-edge", &self.purge_edge),
            ("purge.key", "purge-key", &self.purge_key),
            (
                "purge.fastly.service",
                "purge-fastly-service",
                &self.purge_fastly_service,
            ),
            (
                "purge.fastly.token",
                "purge-fastly-token",
                &self.purge_fastly_token,
            ),
        ];
        let flag = flags
            .iter()
            .find(|(name, _, value)| *name == key && value.is_some());
        match (flag, &self.config) {
            (Some((_, flag, _)), _) => {
                let variable = flag.to_uppercase().replace('-', "_");
                format!("--{flag} or GRIPLINE_{variable}")
            }
            (None, Some(file)) => format!("{key} in {}", file.display()),
            (None, None) => key.to_owned(),
        }
    }

    /// What the file says, and where its `file:` keys are.
    fn file(&self) -> anyhow::Result<(RawConfig, PathBuf)> {
        let Some(path) = &self.config else {
            return Ok((RawConfig::default(), PathBuf::new()));
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--config: cannot read {}", path.display()))?;
        let raw = RawConfig::from_toml(&text)
            .with_context(|| format!("--config: {} is not valid", path.display()))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        Ok((raw, directory))
    }

    fn override_settings(&self, raw: &mut RawConfig) {
        let override_with = |setting: &mut Option<String>, value: &Option<String>| {
            if value.is_some() {
                setting.clone_from(value);
            }
        };
        override_with(&mut raw.listen, &self.listen);
        override_with(&mut raw.control, &self.control);
        override_with(&mut raw.control_base, &self.control_base);
        override_with(&mut raw.origin, &self.origin);
        override_with(&mut raw.origin_websocket, &self.origin_websocket);
        override_with(&mut raw.routes_file, &self.routes.as_deref().map(absolute));
        override_with(&mut raw.drain, &self.drain);
        override_with(&mut raw.grip.sig_key, &self.sig_key);
        override_with(&mut raw.grip.sig_iss, &self.sig_iss);
        let auth = [
            &self.control_key,
            &self.control_iss,
            &self.control_user,
            &self.control_password,
        ];
        if auth.iter().any(|setting| setting.is_some()) {
            let [key, iss, user, password] = auth;
            let auth = raw.control_auth.get_or_insert_default();
            override_with(&mut auth.key, key);
            override_with(&mut auth.iss, iss);
            override_with(&mut auth.user, user);
            override_with(&mut auth.password, password);
        }
        if let Some(key) = &self.edge_key {
            raw.edge.get_or_insert_default().key = Some(key.clone().into());
        }
        if self.purge_edge.is_some() || self.purge_key.is_some() {
            let purge = raw.purge.get_or_insert_default();
            override_with(&mut purge.edge, &self.purge_edge);
            override_with(&mut purge.key, &self.purge_key);
        }
        let fastly = [&self.purge_fastly_service, &self.purge_fastly_token];
        if fastly.iter().any(|setting| setting.is_some()) {
            let [service, token] = fastly;
            let purge = raw.purge.get_or_insert_default();
            let fastly = purge.fastly.get_or_insert_default();
            override_with(&mut fastly.service, service);
            override_with(&mut fastly.token, token);
        }
        if self.debug {
            raw.debug = Some(true);
        }
    }
}

/// A file named on the command line is not relative to `hub.toml`.
fn absolute(file: &str) -> String {
    let absolute = std::path::absolute(file).ok();
    let absolute = absolute.and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or_else(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mistake(arguments: &[&str], expected: &str) {
        let arguments = Arguments::parse_from([&["gripline-hub"], arguments].concat());
        let error = format!("{:#}", arguments.config().expect_err("a mistake"));
        assert!(error.contains(expected), "{error}\nlacks\n{expected}");
    }

    #[test]
    fn mistakes_say_where_they_were_made() {
        check_mistake(
            &["--listen", "x"],
            "--listen or GRIPLINE_LISTEN: \"x\" is no address; give IP:PORT",
        );
        check_mistake(
            &["--origin-websocket", "tcp"],
            "--origin-websocket or GRIPLINE_ORIGIN_WEBSOCKET: \"tcp\" is not known; give over-http",
        );
        check_mistake(
            &["--purge-edge", "http://a"],
            "purge.key: is missing; give the edge's purge-key",
        );
        check_mistake(
            &["--purge-fastly-service", "a/b"],
            "--purge-fastly-service or GRIPLINE_PURGE_FASTLY_SERVICE: \"a/b\" is no service's id",
        );
        check_mistake(
            &["--purge-fastly-service", "a"],
            "purge.fastly.token: is missing",
        );
        check_mistake(
            &["--control", "[::]:0"],
            "--control or GRIPLINE_CONTROL: \"[::]:0\" is not a loopback address",
        );
        check_mistake(
            &["--control", "[::]:0", "--control-key", "base64:$"],
            "--control-key or GRIPLINE_CONTROL_KEY: the text after base64: is not base64",
        );
        check_mistake(
            &["--control-user", "x"],
            "control_auth.password: is missing; give it with the user",
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hub.toml");
        std::fs::write(&file, "drain = \"soon\"").unwrap();
        let file = file.to_str().unwrap();
        check_mistake(
            &["--config", file, "--sig-key", ""],
            &format!("drain in {file}: \"soon\" is no duration"),
        );
        check_mistake(
            &["--config", file, "--sig-key", ""],
            "--sig-key or GRIPLINE_SIG_KEY: the key is empty",
        );
        std::fs::write(file, "lisen = 1").unwrap();
        check_mistake(&["--config", file], "unknown field `lisen`");
        check_mistake(&["--config", "/nowhere"], "--config: cannot read /nowhere");
        check_mistake(
            &["--routes", "/nowhere", "--origin", "http://a"],
            "--routes or GRIPLINE_ROUTES: excludes origin",
        );
        check_mistake(
            &["--routes", "/nowhere"],
            "--routes or GRIPLINE_ROUTES: cannot read /nowhere",
        );
    }

    #[test]
    fn files_on_the_command_line_are_relative_to_where_one_is() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Path::new(&absolute("routes")), here.join("routes"));
        assert_eq!(absolute("/routes"), "/routes");
    }
}
