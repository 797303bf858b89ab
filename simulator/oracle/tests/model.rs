//! The reference model says what a person would say.

use host_api::ProblemCode;
use oracle::model::{
    ContainerKey, Happening, Health, Model, NicKey, Operation, Outcome, Request, Spot, Standing,
    VmKey,
};

const NIC: NicKey = NicKey(0);
const VM1: VmKey = VmKey(1);
const VM2: VmKey = VmKey(2);
const HERE: Spot = Spot {
    vm: VM1,
    container: ContainerKey(0),
};
const BESIDE: Spot = Spot {
    vm: VM1,
    container: ContainerKey(1),
};
const THERE: Spot = Spot {
    vm: VM2,
    container: ContainerKey(0),
};

const fn create(nic: NicKey) -> Operation {
    Operation::Ask(Request::Create(nic))
}

const fn attach(nic: NicKey, spot: Spot) -> Operation {
    Operation::Ask(Request::Attach(nic, spot))
}

const fn detach(nic: NicKey) -> Operation {
    Operation::Ask(Request::Detach(nic))
}

const fn relocate(nic: NicKey, spot: Spot) -> Operation {
    Operation::Ask(Request::Move(nic, spot))
}

const fn delete(nic: NicKey) -> Operation {
    Operation::Ask(Request::Delete(nic))
}

const IN_USE: Option<Outcome> = Some(Outcome::InUse);
const UNDER_WAY: Option<Outcome> = Some(Outcome::UnderWay);
const AVAILABLE: Option<Outcome> = Some(Outcome::Available);

const fn happen(happening: Happening) -> Operation {
    Operation::Happen(happening)
}

fn problem(code: ProblemCode) -> Option<Outcome> {
    Some(Outcome::Problem(code))
}

const fn whole(vm: VmKey) -> Standing {
    Standing::In {
        vm,
        health: Health::Whole,
    }
}

/// Two VMs with a container each, and a NIC in the first one's.
fn in_use() -> Model {
    let mut model = Model::new([VM1, VM2], 2);
    for operation in [
        happen(Happening::StartContainer(HERE)),
        happen(Happening::StartContainer(THERE)),
        create(NIC),
        attach(NIC, HERE),
    ] {
        model.perform(&operation);
    }
    assert_eq!(model.standing(NIC), whole(VM1));
    model
}

fn after(operations: &[Operation]) -> (Vec<Option<Outcome>>, Standing) {
    let mut model = in_use();
    let outcomes = operations.iter().map(|one| model.perform(one)).collect();
    (outcomes, model.standing(NIC))
}

#[test]
fn a_nic_goes_where_it_is_asked_to() {
    let cases = [
        (vec![relocate(NIC, THERE)], vec![IN_USE], whole(VM2)),
        (vec![detach(NIC)], vec![AVAILABLE], Standing::Nowhere),
        (
            vec![detach(NIC), delete(NIC)],
            vec![AVAILABLE, Some(Outcome::Deleted)],
            Standing::Absent,
        ),
    ];
    for (operations, outcomes, standing) in cases {
        assert_eq!(after(&operations), (outcomes, standing), "{operations:?}");
    }
}

#[test]
fn a_move_that_fails_goes_back_as_long_as_there_is_a_way() {
    let gone = problem(ProblemCode::TargetGone);

    let (outcomes, standing) = after(&[relocate(NIC, BESIDE)]);
    assert_eq!((outcomes, standing), (vec![gone], whole(VM1)));

    // Another process has taken the old container's place.
    let successor = [
        happen(Happening::KillContainer(HERE)),
        happen(Happening::StartContainer(HERE)),
        relocate(NIC, BESIDE),
    ];
    assert_eq!(
        after(&successor),
        (vec![None, None, gone], Standing::Nowhere)
    );
}

#[test]
fn a_guest_that_keeps_a_device_holds_up_what_comes_next() {
    let stuck = Standing::Stuck { vm: VM1 };

    assert_eq!(
        after(&[happen(Happening::KeepDevices(VM1)), detach(NIC)]).1,
        stuck
    );
    let moved = [happen(Happening::KeepDevices(VM1)), relocate(NIC, THERE)];
    assert_eq!(after(&moved), (vec![None, UNDER_WAY], stuck));
    let busy = [
        happen(Happening::KeepDevices(VM1)),
        detach(NIC),
        attach(NIC, THERE),
    ];
    assert_eq!(after(&busy).0[2], problem(ProblemCode::Conflict));
    let let_go = [
        happen(Happening::KeepDevices(VM1)),
        relocate(NIC, THERE),
        happen(Happening::LetGo(VM1)),
    ];
    assert_eq!(after(&let_go).1, whole(VM2));
    let reset = [
        happen(Happening::KeepDevices(VM1)),
        detach(NIC),
        happen(Happening::Reset(VM1)),
    ];
    assert_eq!(after(&reset).1, Standing::Nowhere);
}

#[test]
fn what_has_left_in_time_is_kept_when_it_comes_back() {
    let (mut model, mut late) = (Model::new([VM1, VM2], 2), Model::new([VM1, VM2], 2));
    let before = [
        happen(Happening::StartContainer(HERE)),
        create(NIC),
        attach(NIC, HERE),
        happen(Happening::KillContainer(HERE)),
        happen(Happening::StopAgent(VM2)),
        happen(Happening::KeepDevices(VM1)),
    ];
    for operation in &before {
        model.perform(operation);
        late.perform(operation);
    }

    let outcomes = (
        model.move_of_one_that_has_left(NIC, THERE),
        late.perform(&relocate(NIC, THERE)),
    );

    assert_eq!(outcomes, (Outcome::UnderWay, UNDER_WAY));
    for model in [&mut model, &mut late] {
        assert_eq!(model.standing(NIC), Standing::Stuck { vm: VM1 });
        model.perform(&happen(Happening::Reset(VM1)));
    }
    assert_eq!(model.standing(NIC), Standing::Nowhere);
    // It goes on to where it cannot arrive, and only then comes back.
    assert_eq!(late.standing(NIC), Standing::Stuck { vm: VM1 });
}

#[test]
fn what_happens_in_a_guest_happens_to_its_nics() {
    let health = |health| Standing::In { vm: VM1, health };
    let cases = [
        (
            happen(Happening::KillContainer(HERE)),
            health(Health::Degraded),
        ),
        (happen(Happening::Reset(VM1)), health(Health::Degraded)),
        (happen(Happening::StopAgent(VM1)), health(Health::Unknown)),
        (happen(Happening::Eject(NIC)), Standing::Nowhere),
        (happen(Happening::PowerOff(VM1)), Standing::Nowhere),
    ];
    for (operation, standing) in cases {
        assert_eq!(after(&[operation]).1, standing, "{operation:?}");
    }
}

#[test]
fn a_request_that_cannot_be_is_refused() {
    let (other, third) = (NicKey(1), NicKey(2));
    let cases = [
        (vec![attach(NIC, THERE)], ProblemCode::Conflict),
        (vec![delete(NIC)], ProblemCode::Conflict),
        (vec![detach(other)], ProblemCode::NotFound),
        (
            vec![happen(Happening::PowerOff(VM2)), relocate(NIC, THERE)],
            ProblemCode::Conflict,
        ),
        (vec![create(other), detach(other)], ProblemCode::Conflict),
        (
            vec![
                create(other),
                happen(Happening::StopAgent(VM2)),
                attach(other, THERE),
            ],
            ProblemCode::TimedOut,
        ),
        (
            vec![
                create(other),
                attach(other, HERE),
                create(third),
                attach(third, HERE),
            ],
            ProblemCode::LimitExceeded,
        ),
    ];
    for (operations, code) in cases {
        let (outcomes, _) = after(&operations);

        assert_eq!(outcomes.last(), Some(&problem(code)), "{operations:?}");
    }
}
