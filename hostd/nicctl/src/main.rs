//! The command line of hostd.
//!
//! ```text
//!   arguments ─► one call, or: subscribe to events ─► mutation ─► steps as they happen ─► verdict
//!                                                                        exit code by reason ◄──┘
//! ```
//!
//! Tables are for people; with `--json` the standard output holds exactly the API's bodies and
//! everything else goes to the standard error, so that a program never has to pick lines apart.

mod cli;
mod failure;
mod mutate;
mod output;
mod progress;
mod query;
mod resume;
mod table;
mod value;
mod view;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Command, NicCommand, Placing, Removing, VmCommand};
use failure::Failure;
use mutate::Change;
use output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.global.format());
    let verdict = run(arguments, &output);
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.explain(&output);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    // One thread is enough for one call and one stream.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(dispatch(arguments, output))
}

async fn dispatch(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    let client = global.client();
    let nic = match command {
        Command::Vm(VmCommand::List) => return query::list_vms(&client, output).await,
        Command::Vm(VmCommand::Show { vm }) => return query::show_vm(&client, &vm, output).await,
        Command::Events(filter) => {
            let after = filter.after;
            return query::follow_events(&client, &filter.query(), after, output).await;
        }
        Command::Limits => return query::show_limits(&client, output).await,
        Command::Health => return query::show_health(&client, output).await,
        Command::Completion { shell } => return cli::print_completion(shell, output),
        Command::Nic(nic) => nic,
    };
    let (change, patience) = match nic {
        NicCommand::List { vm } => return query::list_nics(&client, vm.as_ref(), output).await,
        NicCommand::Show { nic } => return query::show_nic(&client, &nic, output).await,
        NicCommand::Watch { nic } => return query::watch_nic(&client, nic, output).await,
        NicCommand::Create(create) => {
            let (request, patience) = create.request();
            (Change::Create(request), patience)
        }
        NicCommand::Attach(Placing {
            nic,
            place,
            sending,
        }) => (Change::Attach(nic, place.attach()), sending.patience()),
        NicCommand::Move(Placing {
            nic,
            place,
            sending,
        }) => (Change::Move(nic, place.relocate()), sending.patience()),
        NicCommand::Detach(Removing { nic, sending }) => (Change::Detach(nic), sending.patience()),
        NicCommand::Delete(Removing { nic, sending }) => (Change::Delete(nic), sending.patience()),
    };
    mutate::run(&client, &change, &patience, output).await
}
