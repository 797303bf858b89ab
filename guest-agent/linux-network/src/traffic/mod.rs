//! Traffic control: shaping what leaves a link, and diverting what arrives so that it can be shaped
//! too.
//!
//! ```text
//!   towards the link's other end:  root ── TBF ── FIFO ──► out
//!   from the other end:            ingress ── u32 ── mirred ──► another link's root ── TBF ── FIFO
//! ```
//!
//! These four parts (`sch_tbf`, `sch_ingress`, `cls_u32`, `act_mirred`) are in every kernel that
//! can do traffic control at all, unlike `police`, `matchall` and `sfq`. The library knows neither
//! TBF nor size tables, hence bytes written by hand.

mod bucket;
mod redirect;

pub use bucket::{InvalidBucket, SizeTable, TokenBucket};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use crate::error::{Errno, NetlinkError, operation_error};
use crate::netlink::Netlink;
use crate::netlink::link_view::LinkIndex;

operation_error! {
    /// From the methods of [`Netlink`] that change how a link shapes traffic.
    ShapeError { index: LinkIndex = "Which link." } "failed to change the shaping of link {index}"
}

operation_error! {
    /// From [`Netlink::queueing`] and [`Netlink::redirections`].
    ListShapingError { index: LinkIndex = "Which link." }
    "failed to list the shaping of link {index}"
}

/// The handle of our TBF.
const BUCKET: TcHandle = TcHandle { major: 1, minor: 0 };
/// The handle the kernel gives every ingress discipline.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

/// A queueing discipline as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueingView {
    /// `tbf`, `ingress`, `bfifo` and the like.
    pub kind: String,
    /// Where it sits.
    pub place: QueueingPlace,
    /// Its parameters, when it is a token bucket.
    pub bucket: Option<TokenBucket>,
}

/// Where a queueing discipline sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueingPlace {
    /// Everything that leaves the link passes it.
    Root,
    /// Everything that arrives passes it.
    Ingress,
    /// Inside another one.
    Inner,
}

impl Netlink {
    /// Shapes what leaves a link through `bucket`; again changes it in place, without losing what
    /// is queued, but fills it.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link, `NOENT` when the kernel has no `sch_tbf`.
    /// [`NetlinkError::Ignored`] when the kernel cannot charge packets as the bucket wants it.
    pub async fn shape(&self, index: LinkIndex, bucket: &TokenBucket) -> Result<(), ShapeError> {
        let set = async {
            self.replace_queueing(bucket.root_message(index)).await?;
            match self.bucket(index).await? {
                Some(found) if found.size_table() != bucket.size_table() => Err(
                    NetlinkError::Ignored("the least charge per packet, which takes Linux 5.17"),
                ),
                Some(_) => Ok(()),
                None => Err(NetlinkError::Unexpected),
            }
        };
        set.await.map_err(|cause| ShapeError { index, cause })
    }

    /// Our token bucket on a link, if it is there.
    async fn bucket(&self, index: LinkIndex) -> Result<Option<TokenBucket>, NetlinkError> {
        let mut question = message(index, TcHandle::UNSPEC);
        question.header.handle = BUCKET;
        let request = RouteNetlinkMessage::GetQueueDiscipline(question);
        // Without ECHO the answer goes to the subscribers of events alone (`rtnetlink_send`).
        match self.get(request, NLM_F_ECHO).await {
            Ok(answer) => Ok(bucket::view(answer, index).and_then(|view| view.bucket)),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what leaves a link is shaped by exactly this bucket.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link.
    pub async fn is_shaped(
        &self,
        index: LinkIndex,
        bucket: &TokenBucket,
    ) -> Result<bool, ShapeError> {
        let found = self
            .bucket(index)
            .await
            .map_err(|cause| ShapeError { index, cause })?;
        Ok(found.is_some_and(|found| bucket.is_same(&found)))
    }

    /// Removes what [`Self::shape`] has made; nothing there is fine.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link.
    pub async fn unshape(&self, index: LinkIndex) -> Result<(), ShapeError> {
        let mut message = message(index, TcHandle::ROOT);
        message.header.handle = BUCKET;
        self.remove_queueing(message)
            .await
            .map_err(|cause| ShapeError { index, cause })
    }

    /// Sends everything that arrives at `from` to where things leave `to`. When `to` is an
    /// intermediate device, they then arrive at `from` after all.
    ///
    /// # Errors
    /// With errno `NODEV` when either is gone, `NOENT` when the kernel lacks a part.
    pub async fn redirect(&self, from: LinkIndex, to: LinkIndex) -> Result<(), ShapeError> {
        let set = async {
            let mut ingress = message(from, TcHandle::INGRESS);
            ingress.header.handle = INGRESS;
            ingress
                .attributes
                .push(TcAttribute::Kind("ingress".to_owned()));
            self.replace_queueing(ingress).await?;
            self.change(redirect::everything(from, to), NLM_F_CREATE | NLM_F_REPLACE)
                .await
        };
        set.await.map_err(|cause| ShapeError { index: from, cause })
    }

    /// Removes what [`Self::redirect`] has made; nothing there is fine.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link.
    pub async fn unredirect(&self, from: LinkIndex) -> Result<(), ShapeError> {
        let mut message = message(from, TcHandle::INGRESS);
        message.header.handle = INGRESS;
        self.remove_queueing(message)
            .await
            .map_err(|cause| ShapeError { index: from, cause })
    }

    /// The queueing disciplines of a link, without those the kernel puts there by itself.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn queueing(&self, index: LinkIndex) -> Result<Vec<QueueingView>, ListShapingError> {
        let question = message(index, TcHandle::UNSPEC);
        let request = RouteNetlinkMessage::GetQueueDiscipline(question);
        let list = self
            .list(request, |answer| bucket::view(answer, index))
            .await;
        list.map_err(|cause| ListShapingError { index, cause })
    }

    /// Where what arrives at a link is sent, most important first.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn redirections(&self, from: LinkIndex) -> Result<Vec<LinkIndex>, ListShapingError> {
        let question = message(from, INGRESS);
        let request = RouteNetlinkMessage::GetTrafficFilter(question);
        let list = self
            .list(request, |answer| redirect::target(answer, from))
            .await;
        list.map_err(|cause| ListShapingError { index: from, cause })
    }

    async fn replace_queueing(&self, message: TcMessage) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// The kernel says `ENOENT` when there is nothing there, `EINVAL` when there is something with
    /// another handle, which is not ours to remove (`tc_get_qdisc` in net/sched/sch_api.c).
    async fn remove_queueing(&self, message: TcMessage) -> Result<(), NetlinkError> {
        match self
            .change(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
            .await
        {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL)) => Ok(()),
            done => done,
        }
    }
}

fn message(index: LinkIndex, parent: TcHandle) -> TcMessage {
    // Numbers of links are positive in the kernel, where they are an int.
    let mut message = TcMessage::with_index(index.0.cast_signed());
    message.header.parent = parent;
    message
}
