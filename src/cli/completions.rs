//! `tidegate completions`: what a shell needs to complete this command line, made from the command line itself.

use super::terminal::print;
use crate::error::Result;
use clap_complete::{Shell, generate};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Where the script goes, so that new shells have it:\n  \
                        bash        ~/.local/share/bash-completion/completions/tidegate (with the package bash-completion),\n  \
                        \u{20}           or in ~/.bashrc: source <(tidegate completions bash)\n  \
                        zsh         a file _tidegate in a directory of $fpath\n  \
                        fish        ~/.config/fish/completions/tidegate.fish\n  \
                        elvish      in ~/.config/elvish/rc.elv: eval (tidegate completions elvish | slurp)\n  \
                        powershell  in $PROFILE: tidegate completions powershell | Out-String | Invoke-Expression")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut super::help::command(), "tidegate", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
