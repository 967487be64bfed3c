//! What `--help` teaches: the commands in the order in which one meets them, and for each of them examples that work.
//!
//! Every command stands here once, and every example is one that the program understands: the tests see to it.

use super::Arguments;
use clap::{Command, CommandFactory};

/// Commands, each with its examples.
type Group = &'static [(&'static str, &'static [&'static str])];

/// Commands with their examples, in groups, in reading order.
const GROUPS: [(&str, Group); 4] = [
    (
        "Start",
        &[
            ("dev", &["tidegate dev", "tidegate dev --regions 2 --ephemeral"]),
            ("demo", &["tidegate demo"]),
            ("doctor", &["tidegate doctor", "tidegate doctor --config gateway.toml", "tidegate doctor --config gateway.toml --json"]),
        ],
    ),
    (
        "Serve and operate",
        &[
            ("serve", &["tidegate serve --defaults", "tidegate serve --config gateway.toml"]),
            ("migrate", &["tidegate migrate --url postgres://owner:password@localhost/tidegate --app-role gateway"]),
            ("ready", &["tidegate ready --config gateway.toml"]),
            (
                "token",
                &[
                    "tidegate token --new-secret secret",
                    "tidegate token --secret-file secret --sub ann --db shop=write",
                    "tidegate token --secret-file secret --db '*=read' --for 30d",
                    "tidegate token --key-file key.pem --kid 2026 --jwks > jwks.json",
                    "tidegate token --key-file key.pem --kid 2026 --db shop=admin",
                ],
            ),
            ("status", &["tidegate status", "tidegate status --once --url http://127.0.0.1:8080 --url http://127.0.0.1:8081"]),
            ("relay", &["tidegate relay retire us", "tidegate relay accept us --url http://127.0.0.1:8081"]),
            ("rebuild", &["tidegate rebuild documents --url postgres://owner:password@localhost/tidegate"]),
        ],
    ),
    (
        "Data, as apps see it",
        &[
            ("get", &["tidegate get shop", "tidegate get shop todos/milk", "tidegate get shop --list --collection todos"]),
            (
                "put",
                &[
                    "tidegate put shop",
                    "tidegate put shop todos/milk '{\"title\":\"Milk\"}'",
                    "tidegate put shop todos/milk --patch '{\"done\":true}' --base eu:1",
                ],
            ),
            ("changes", &["tidegate changes shop --body", "tidegate changes shop --follow --collection todos --json"]),
            ("import", &["tidegate import batches.ndjson.gz --db shop"]),
        ],
    ),
    (
        "Proof and tools",
        &[
            ("verify", &["tidegate verify --url postgres://gateway:password@localhost/tidegate"]),
            (
                "bench",
                &[
                    "tidegate bench",
                    "tidegate bench --only B1a,B3",
                    "tidegate bench load write --url http://127.0.0.1:8080 --db shop --ops 100000",
                ],
            ),
            ("completions", &["tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate"]),
        ],
    ),
];

/// The whole command line, with what it says of itself.
pub fn command() -> Command {
    let command = without_empty(Arguments::command()).mut_subcommands(|command| {
        let Some(examples) = examples(command.get_name()) else { return command };
        let before = command.get_after_help().map(|text| format!("{}\n\n", text.ansi())).unwrap_or_default();
        let heading = heading(&command, "Examples");
        command.after_help(format!("{before}{heading}\n  {}", examples.join("\n  ")))
    });
    let mut groups = String::new();
    for (title, commands) in GROUPS {
        groups.push_str(&format!("{}\n", heading(&command, title)));
        let literal = command.get_styles().get_literal();
        for (name, _) in commands {
            let about = command.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string).unwrap_or_default();
            groups.push_str(&format!("  {}{name:<12}{} {about}\n", literal.render(), literal.render_reset()));
        }
        groups.push('\n');
    }
    let options = heading(&command, "Options");
    command.help_template(format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{options}\n{{options}}{{after-help}}"))
}

/// A variable that is set to nothing says nothing: whoever starts containers writes `${X:-}`.
fn without_empty(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let is_empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { argument.env(None::<&'static str>) } else { argument }
    });
    command.mut_subcommands(without_empty)
}

fn examples(name: &str) -> Option<&'static [&'static str]> {
    GROUPS.iter().flat_map(|(_, commands)| *commands).find_map(|(known, examples)| (*known == name).then_some(*examples))
}

fn heading(command: &Command, text: &str) -> String {
    let header = command.get_styles().get_header();
    format!("{}{text}:{}", header.render(), header.render_reset())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An example's words as a shell gives them, up to where it sends the output.
    fn words(example: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in example.split(" > ").next().unwrap().chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words
    }

    #[test]
    fn every_command_stands_in_one_group_and_its_examples_work() {
        let mut named: Vec<&str> = GROUPS.iter().flat_map(|(_, commands)| commands.iter().map(|(name, _)| *name)).collect();
        named.sort_unstable();
        let mut known: Vec<String> = command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        known.sort_unstable();
        assert_eq!(named, known);
        for (name, examples) in GROUPS.iter().flat_map(|(_, commands)| *commands) {
            assert!(!examples.is_empty(), "{name} has no example");
            for example in *examples {
                assert!(example.starts_with(&format!("tidegate {name}")), "{example}");
                let parsed = command().try_get_matches_from(words(example));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn every_argument_says_what_it_is() {
        fn check(command: &Command, path: &str) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
            }
            for inner in command.get_subcommands() {
                assert!(inner.get_about().is_some(), "{path} {} does not say what it does", inner.get_name());
                check(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        check(&command(), "tidegate");
        command().debug_assert();
    }

    #[test]
    fn the_first_help_shows_all_commands_in_reading_order() {
        let text = command().render_help().to_string();
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is not in {text}"));
        assert!(at("Start:") < at("  dev ") && at("  dev ") < at("Serve and operate:") && at("Options:") < at("--version"), "{text}");
        let help = command().find_subcommand_mut("put").unwrap().render_help().to_string();
        assert!(help.contains("Exit codes: 0 accepted") && help.contains("Examples:\n  tidegate put shop\n"), "{help}");
    }
}
