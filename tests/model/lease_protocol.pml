/* Leases of one run: acquire, queue, hand-off, claim, renew, release, leave, break, and the saves that they fence.
 *
 * Each worker makes one acquisition, named by its holder: here the worker's number. The server runs one script at a
 * time (d_step). Copies of requests are delayed, overtaken, lost, or arrive when their sender has long gone; replies
 * and doorbells are lost; workers are slower than their lease, are killed, or freeze for ever with their connection
 * open.
 *
 * Abstracted:
 * - Time. A lease lapses at any moment, but not before its holder's own clock has said so (`valid`), since validity
 *   counts from before the request was sent. What is left of its length is the kind: a full term, or a claim's.
 * - A timer fires at any moment after the end of the lease that its worker was told of, and too early only EARLY times.
 *   So `ring`, which moves timers, is left out, and rank and milliseconds with it.
 * - The server's clock stands still: that fences rise is up to the head alone.
 * - A reply that was lost is a copy that arrives late: to its sender both look alike.
 * - A renew or a save is sent and not waited for: a holder may do anything at any time, so only what they do matters.
 * - The data: a save is here what the lease lets through. Compare-and-set, deletes and failover: save_protocol.pml.
 * - Marks last, keys have no lifetime but the lease's, each worker has a channel of its own. PUBLISH counts a listener,
 *   or does not though it hears, since it listens at a replica, say (`counted`); or counts one that hears nothing.
 * - The second node. A run has one server, and may get another one (MOVES): its slot moves, or a replica is promoted.
 *   All stored state moves in one step. While keys are on both servers, each request is refused, so it is only late.
 *   What a failover loses is in save_protocol.pml. A request to the wrong server is sent on (MOVED), and its sender
 *   then `knows` the new one. A worker listens at the primaries that it knew when it subscribed. The server of the run
 *   counts the listeners there. Those elsewhere hear it over the cluster's bus or the replication, uncounted.
 * - The head remembers all who left, but those that it forgets (FORGETS); on a server it remembers the last six.
 * - A holder's name serves all grants of its acquisition. A late copy of a break that was answered may break the same
 *   holder's next lease; that counts as broken.
 */

/* ---- the size of the world ---- */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef LATE
#define LATE 1           /* copies of acquire that a worker leaves behind while it goes on asking */
#endif
#ifndef LAPSES
#define LAPSES 1         /* leases that lapse though their holder is alive: it is slow, or cut off */
#endif
#ifndef REPLAYS
#define REPLAYS 0        /* copies of acquire that a proxy makes: they arrive before or after it, and nobody knows */
#endif
#ifndef FORGETS
#define FORGETS 0        /* workers whose leaving the head forgets, since many have left after them */
#endif
#ifndef UNCOUNTED
#define UNCOUNTED 0      /* listeners that the server counts no more, though they hear */
#endif
#ifndef MOVES
#define MOVES 0          /* the run goes to another server, as its slot moves or a replica is promoted */
#endif
#ifndef MISSES
#define MISSES 0         /* subscriptions that lack the server of the run, since it could not be reached */
#endif
#ifndef DOORBELL_ONLY
#define DOORBELL_ONLY 0  /* 1: no timer fires and no doorbell that somebody hears is lost: nobody may need a timer */
#endif
#ifndef DEATHS
#define DEATHS 1         /* workers killed or frozen for ever */
#endif
#ifndef CUTS
#define CUTS 1           /* subscriptions of living workers that break */
#endif
#ifndef EARLY
#define EARLY 1          /* timers that fire too early */
#endif
#ifndef BREAKS
#define BREAKS 0         /* break_lease by an operator, each sent twice */
#endif
#ifndef RENEWALS
#define RENEWALS 1       /* 0: no worker renews */
#endif
#ifndef SAVES
#define SAVES 1          /* 0: no worker saves */
#endif
#ifndef PATIENT
#define PATIENT 1        /* as many workers, the last ones, never give up: the others may at any moment */
#endif
#ifndef TRIES_ONCE
#define TRIES_ONCE 0     /* the worker of that number does not queue (acquire_timeout=0) */
#endif
#ifndef IGNORE
#define IGNORE skip      /* such as `fenced = 1`: that promise is not watched */
#endif

/* ---- the guards: 0 takes one out ---- */
#ifndef ACQUIRE_KNOWS_ITS_HOLDER
#define ACQUIRE_KNOWS_ITS_HOLDER 1        /* a resend, or a claim, is granted the lease that it holds already */
#endif
#ifndef ENQUEUE_ONCE
#define ENQUEUE_ONCE 1                    /* who stands in the queue is not put there again */
#endif
#ifndef NOBODY_BARGES
#define NOBODY_BARGES 1                   /* a free lease with a queue goes to the queue */
#endif
#ifndef GRANT_WHEN_NOBODY_LISTENS
#define GRANT_WHEN_NOBODY_LISTENS 1       /* a queue of the dead does not keep a free lease from who asks */
#endif
#ifndef HAND_OFF_ENDS_AT_ASKER
#define HAND_OFF_ENDS_AT_ASKER 1          /* who asks at a free run is served, and those behind it keep their places */
#endif
#ifndef PLACE_SAYS_UNCOUNTED
#define PLACE_SAYS_UNCOUNTED 1            /* who was called and passed over is not counted: its next place says so */
#endif
#ifndef ENTER_WHEN_GRANTED
#define ENTER_WHEN_GRANTED 1              /* the doorbell says "ask"; only the answer lets a worker enter */
#endif
#ifndef HAND_OFF_IS_A_CLAIM
#define HAND_OFF_IS_A_CLAIM 1             /* what was handed over lasts a claim until its holder asks for it */
#endif
#ifndef GRANT_WRITES_HEAD
#define GRANT_WRITES_HEAD 1               /* an older holder is fenced from the grant on, not from the next save on */
#endif
#ifndef RENEW_COMPARES_HOLDER
#define RENEW_COMPARES_HOLDER 1
#endif
#ifndef RENEW_COMPARES_FENCE
#define RENEW_COMPARES_FENCE 1
#endif
#ifndef RENEW_ASKS_HEAD
#define RENEW_ASKS_HEAD 1                 /* a lapsed lease is made anew only while the head still names it */
#endif
#ifndef RENEW_YIELDS_TO_QUEUE
#define RENEW_YIELDS_TO_QUEUE 1           /* and only while nobody waits */
#endif
#ifndef RELEASE_COMPARES_HOLDER
#define RELEASE_COMPARES_HOLDER 1
#endif
#ifndef RELEASE_CLEARS_HEAD
#define RELEASE_CLEARS_HEAD 2             /* 2: also when the lease has lapsed   1: only with a live lease   0: never */
#endif
#ifndef LEAVE_DEQUEUES
#define LEAVE_DEQUEUES 1                  /* who gives up waiting leaves the queue */
#endif
#ifndef RELEASE_DEQUEUES
#define RELEASE_DEQUEUES 1                /* who held the lease, too: after a lapse a late acquire may have queued it */
#endif
#ifndef LEAVE_MARKS
#define LEAVE_MARKS 1                     /* of the leaver, when copies of its acquire may still arrive */
#endif
#ifndef HEAD_REMEMBERS_LEAVERS
#define HEAD_REMEMBERS_LEAVERS 1          /* no copy of acquire that a proxy made is served after its sender has left */
#endif
#ifndef RELEASE_KNOWS_ITS_COPY
#define RELEASE_KNOWS_ITS_COPY 1          /* a release that was done already is told that it was */
#endif
#ifndef HELD_LEAVES
#define HELD_LEAVES 1                     /* who tried once in vain, after an ambiguous send, leaves as a waiter does */
#endif
#ifndef LOST_LEAVES
#define LOST_LEAVES 1                     /* who lost the lease releases it all the same */
#endif
#ifndef BREAK_COMPARES_HOLDER
#define BREAK_COMPARES_HOLDER 1           /* a break fences the holder that its sender saw, nobody else */
#endif
#ifndef BREAK_FENCES
#define BREAK_FENCES 1                    /* and does not only take the lease away */
#endif
#ifndef SAVE_COMPARES_FENCE
#define SAVE_COMPARES_FENCE 1
#endif
#ifndef SUBSCRIBE_FIRST
#define SUBSCRIBE_FIRST 1                 /* the subscription is confirmed before the worker enqueues */
#endif
#ifndef ASK_ONCE_SUBSCRIBED
#define ASK_ONCE_SUBSCRIBED 1             /* what was published meanwhile was missed, so the worker asks */
#endif
#ifndef LISTEN_AT_EVERY_PRIMARY
#define LISTEN_AT_EVERY_PRIMARY 1         /* and not at one of them, which need not be the run's */
#endif
#ifndef FOLLOW_THE_RUN
#define FOLLOW_THE_RUN 1                  /* who learns of a new primary subscribes there, too */
#endif
#ifndef LOOK_AGAIN
#define LOOK_AGAIN 1                      /* who could not subscribe at some primary tries again */
#endif
#ifndef HEAR_FROM_ELSEWHERE
#define HEAR_FROM_ELSEWHERE 1             /* a call that comes from another server than the run's says "ask", too */
#endif
#ifndef TIMER
#define TIMER 1                           /* the doorbell is advice; the timer is the guarantee */
#endif
#ifndef VALID_FROM_SEND
#define VALID_FROM_SEND 1                 /* a lease is valid from when its request was sent, not from the reply */
#endif

#define NOBODY 0
#define NO_FENCE 0

/* ---- what must hold: an assertion violated names one of these ---- */
hidden byte
  one_holder_at_a_time,           /* no two workers believe that they hold the lease, unless it was broken */
  entered_only_while_granted,     /* when a worker enters, the lease is its own on the server, unless it was broken */
  holder_is_never_refused,        /* who holds a lease that neither lapsed nor was broken may save */
  fenced,                         /* once a fence is granted no save with a lower one is applied; nor, while a lease
                                     lives, one of anybody else */
  released_is_final,              /* no copy of a save is applied after the release of its lease */
  released_is_told,               /* who gave its lease up is not told that it was lost */
  no_ghost_lease,                 /* no copy of acquire or renew grants or queues for one who has left */
  only_its_own_lease,             /* release and renew touch no successor's lease */
  nobody_barges,                  /* nobody is granted while one that can be told of it waits before it */
  listener_keeps_its_place,       /* only who is dead, was cut off or is not counted is dropped from the queue, and only
                                     to serve one behind it; the server of the run counts whoever knows it and has
                                     subscribed since */
  passed_over_twice_at_most,      /* and who is not counted, from no place that it takes after it was called */
  queued_once,                    /* and who is granted stands in it no more; nobody waits for itself */
  dead_waiter_costs_a_claim,
  free_lease_is_granted,          /* no request leaves the lease free */
  no_stuck_queue;                 /* when nothing more can happen, everyone alive has had its turn or has left */

inline promise(kept, name) {
  if
  :: kept
  :: else -> assert(name)         /* a promise is no variable: it is 0, so that spin prints its name */
  fi
}

/* ---- workers, and their requests under way ---- */
mtype:phase = { idle, asking, waiting, holding, leaving, done, dead };
mtype:reply = { none, granted, queued, held };

typedef Worker {
  mtype:phase phase;
  bool tries_once;
  bool listening;          /* it is subscribed */
  bool deaf;               /* at a server that has left the cluster, and it does not notice */
  bool counted;            /* the server of the run counts it as a subscriber of its channel */
  bool knows;              /* which server has the run */
  bool subscribing;        /* it is about to subscribe anew, since primaries have changed or one is missing */
  bool called;             /* it has heard that it is its turn */
  bool uncounted_place;    /* its place in the queue says that it hears all the same */
  bool was_cut;            /* its subscription broke once */
  byte doorbell;           /* the fence in one that names it, under way or not yet read */
  byte armed;              /* fence of the lease after whose end its timer fires */
  bool ambiguous;          /* an acquire went unanswered: its copies may still arrive */

  bool acquire;            /* the copy whose reply it awaits */
  byte late_acquires;
  mtype:reply reply;       /* on its way back */
  byte reply_fence;
  bool in_time;            /* what was granted in it has not lapsed since */

  byte fence;              /* of the lease that it was told it has */
  bool valid;              /* by its own clock */
  byte renew;              /* the fence in a renew under way */
  bool renewed;            /* its reply, on its way back */
  byte save;               /* the fence in a save under way */
  bool release, late_release;
  bool names_place;        /* its release takes it out of the queue, too */

  /* what only the checker knows */
  bool left;               /* a release was served, or none was needed: it must never be granted again */
  bool dropped;            /* from the queue, from a place that it had taken before it knew that it is not counted */
  bool gave_up;            /* and the lease was its own when that was served first */
  byte broken_fence        /* an operator broke the lease with this one */
};
Worker worker[WORKERS + 1];

/* ---- what the server stores ---- */
byte lease_holder, lease_fence;
bool lease_full;           /* its own term, not a claim's */
byte head_fence, head_holder;
chan queue = [2 * WORKERS] of { byte };
bool marked[WORKERS + 1];
bool remembered[WORKERS + 1], gave_back[WORKERS + 1];   /* by the head: who left, and who of them gave up a lease */

byte break_target, break_copies;
byte lapses_left = LAPSES, deaths_left = DEATHS, cuts_left = CUTS, early_left = EARLY, breaks_left = BREAKS;
byte replays_left = REPLAYS, forgets_left = FORGETS, uncounted_left = UNCOUNTED;
byte moves_left = MOVES, misses_left = MISSES;

/* what only the checker knows */
byte highest_fence;        /* ever granted, or raised by a break */
bool lease_asked;          /* its holder was served since it was granted */

/* of one step each */
hidden byte place, first, popped, other, fence;
hidden byte met, passed_over, mine, accepted, beyond, ended;

/* ================================================================ scripts */

#define HEARS(who) (worker[who].listening && !worker[who].deaf && (worker[who].counted || HEAR_FROM_ELSEWHERE))
#define TELLABLE(who) (worker[who].counted || worker[who].uncounted_place && PLACE_SAYS_UNCOUNTED)

/* Does anybody who can be told stand in the queue before `who`? */
inline look_who_is_passed_over(who) {
  passed_over = false; met = false; place = len(queue);
  do
  :: place > 0 ->
     queue?first; queue!first; place--;
     met = met || first == who;
     passed_over = passed_over || (!met && TELLABLE(first))
  :: else -> break
  od
}

inline grant(who) {
  promise(!worker[who].left, no_ghost_lease);
  highest_fence++;
  lease_holder = who; lease_fence = highest_fence;
  if
  :: GRANT_WRITES_HEAD -> head_fence = highest_fence; head_holder = who
  :: else
  fi
}

/* Grants a free lease to the first in the queue who listens. `asker` asks just now; NOBODY: nobody does. */
inline hand_off(asker) {
  beyond = false; ended = false;
  do
  :: lease_holder == NOBODY && len(queue) > 0 && !ended ->
     queue?popped;
     if
     :: popped == asker && asker != NOBODY -> beyond = true; ended = HAND_OFF_ENDS_AT_ASKER
     :: else ->
        if
        :: HEARS(popped) -> worker[popped].doorbell = highest_fence + 1
        :: else
        fi;
        if
        :: TELLABLE(popped) ->
           grant(popped);
           promise(!queue??[eval(popped)], queued_once);
           lease_full = !HAND_OFF_IS_A_CLAIM; lease_asked = false
        :: else ->
           promise(worker[popped].phase == dead || worker[popped].was_cut || !beyond &&
                   (uncounted_left < UNCOUNTED && worker[popped].listening && !worker[popped].counted ||
                    !worker[popped].knows || worker[popped].subscribing), listener_keeps_its_place);
           promise(worker[popped].phase == dead || worker[popped].was_cut || worker[popped].ambiguous ||
                   !worker[popped].dropped, passed_over_twice_at_most);
           worker[popped].dropped = worker[popped].called
        fi
     fi
  :: else -> break
  od
}

/* Its sender hears of the server that has the run by now. */
inline learn(me) {
  if
  :: !worker[me].knows ->
     worker[me].knows = true;
     worker[me].subscribing =
       (worker[me].subscribing || FOLLOW_THE_RUN && worker[me].listening && !worker[me].counted);
     worker[me].listening = worker[me].listening && !worker[me].subscribing
  :: else
  fi
}

/* Also claim, and poke. `awaited`: somebody listens for this copy's reply. `uncounted`: what it says of its sender. */
inline serve_acquire(me, awaited, uncounted) {
  if
  :: awaited -> learn(me)
  :: else
  fi;
  accepted = !marked[me] && !(remembered[me] && HEAD_REMEMBERS_LEAVERS);
  mine = accepted && ACQUIRE_KNOWS_ITS_HOLDER && lease_holder == me;
  if
  :: accepted && lease_holder == NOBODY ->
     if
     :: !NOBODY_BARGES || len(queue) == 0 ->
        look_who_is_passed_over(me);
        promise(!passed_over, nobody_barges);
        if
        :: queue??[eval(me)] -> queue??eval(me)
        :: else
        fi;
        grant(me)
     :: else ->
        hand_off(me);
        if
        :: lease_holder == NOBODY && (GRANT_WHEN_NOBODY_LISTENS || beyond) -> grant(me)
        :: else
        fi
     fi;
     promise(lease_holder != NOBODY, free_lease_is_granted);
     mine = lease_holder == me
  :: else
  fi;
  if
  :: mine -> lease_full = true; lease_asked = true
  :: accepted && !mine && !worker[me].tries_once && !(ENQUEUE_ONCE && queue??[eval(me)]) ->
     promise(!worker[me].left, no_ghost_lease);
     promise(lease_holder != me, queued_once);
     worker[me].uncounted_place = uncounted;
     queue!me
  :: else
  fi;
  promise(!(mine && queue??[eval(me)]), queued_once);
  if
  :: awaited && accepted ->
     worker[me].acquire = false;
     worker[me].reply = (mine -> granted : (worker[me].tries_once -> held : queued));
     worker[me].reply_fence = lease_fence;
     worker[me].in_time = mine
  :: awaited && !accepted -> worker[me].acquire = false
  :: else
  fi
}

inline serve_renew(me) {
  fence = worker[me].renew; worker[me].renew = NO_FENCE;
  accepted = false;
  if
  :: lease_holder == me && (lease_fence == fence || !RENEW_COMPARES_FENCE) -> accepted = true
  :: lease_holder != NOBODY && lease_holder != me && !RENEW_COMPARES_HOLDER ->
     promise(false, only_its_own_lease); accepted = true
  :: lease_holder == NOBODY && (head_holder == me && head_fence == fence || !RENEW_ASKS_HEAD) &&
       (len(queue) == 0 || !RENEW_YIELDS_TO_QUEUE) ->
     promise(!worker[me].left, no_ghost_lease);
     look_who_is_passed_over(me);
     promise(!passed_over, nobody_barges);
     lease_holder = me; lease_fence = fence;
     accepted = true
  :: else
  fi;
  if
  :: accepted -> lease_full = true; lease_asked = true; worker[me].renewed = (worker[me].phase == holding)
  :: else
  fi
}

inline serve_save(me) {
  fence = worker[me].save; worker[me].save = NO_FENCE;
  accepted = (lease_holder == NOBODY || lease_holder == me && lease_fence == fence) &&
    (!SAVE_COMPARES_FENCE || fence > head_fence || fence == head_fence && head_holder == me);
  if
  :: accepted ->
     promise(fence >= highest_fence && (lease_holder == NOBODY || lease_holder == me), fenced);
     promise(!worker[me].left, released_is_final);
     head_fence = fence; head_holder = me
  :: else ->
     promise(!(worker[me].valid && worker[me].fence == fence) || worker[me].broken_fence >= fence,
             holder_is_never_refused);
     promise(!(lease_holder == me && lease_fence == fence), holder_is_never_refused)
  fi
}

/* Gives the lease back, or leaves the queue. */
inline serve_release(me, awaited) {
  mine = lease_holder == me || head_holder == me;
  if
  :: worker[me].names_place && queue??[eval(me)] -> queue??eval(me)
  :: else
  fi;
  if
  :: RELEASE_CLEARS_HEAD == 2 && head_holder == me -> head_holder = NOBODY
  :: RELEASE_CLEARS_HEAD == 1 && head_holder == me && lease_holder == me -> head_holder = NOBODY
  :: else
  fi;
  if
  :: lease_holder == me -> lease_holder = NOBODY
  :: lease_holder != me && lease_holder != NOBODY && !RELEASE_COMPARES_HOLDER ->
     promise(false, only_its_own_lease); lease_holder = NOBODY
  :: else
  fi;
  marked[me] = marked[me] || (LEAVE_MARKS && worker[me].ambiguous);
  promise(!(awaited && worker[me].gave_up) || mine || gave_back[me] && RELEASE_KNOWS_ITS_COPY ||
          forgets_left < FORGETS, released_is_told);
  gave_back[me] = gave_back[me] || mine;
  remembered[me] = true;
  worker[me].gave_up = worker[me].gave_up || mine && !worker[me].left;
  worker[me].left = true;
  hand_off(NOBODY);
  if
  :: awaited -> worker[me].release = false; worker[me].phase = done
  :: else
  fi
}

/* The lease of whom an operator saw there, lapsed or not. */
inline serve_break() {
  mine = lease_holder == break_target || head_holder == break_target;
  if
  :: mine -> worker[break_target].broken_fence = head_fence
  :: else
  fi;
  if
  :: lease_holder == break_target -> lease_holder = NOBODY
  :: else
  fi;
  if
  :: mine || !BREAK_COMPARES_HOLDER ->
     highest_fence++;
     head_fence = (BREAK_FENCES -> highest_fence : head_fence); head_holder = (BREAK_FENCES -> NOBODY : head_holder)
  :: else
  fi;
  hand_off(NOBODY);
  break_copies--
}

/* A doorbell was read, was lost, or is of no use any more. */
inline silence(me) {
  worker[me].doorbell = NO_FENCE
}

/* The server takes whichever copy arrives next; late ones may also never arrive. */
proctype Network(byte me) {
end:
  do
  :: d_step { worker[me].acquire -> serve_acquire(me, true, worker[me].called) }
  :: d_step { worker[me].late_acquires > 0 -> worker[me].late_acquires--; serve_acquire(me, false, false) }
  :: d_step { worker[me].late_acquires > 0 && worker[me].called ->
       worker[me].late_acquires--; serve_acquire(me, false, true) }
  :: d_step { replays_left > 0 && worker[me].acquire -> replays_left--; worker[me].late_acquires++ }
  :: d_step { forgets_left > 0 && remembered[me] ->
       forgets_left--; remembered[me] = false; gave_back[me] = false }
  :: d_step { worker[me].late_acquires > 0 -> worker[me].late_acquires-- }
  :: d_step { worker[me].renew != NO_FENCE -> serve_renew(me) }
  :: d_step { worker[me].renew != NO_FENCE -> worker[me].renew = NO_FENCE }
  :: d_step { worker[me].save != NO_FENCE -> serve_save(me) }
  :: d_step { worker[me].save != NO_FENCE -> worker[me].save = NO_FENCE }
  :: d_step { worker[me].release -> serve_release(me, true) }
  :: d_step { worker[me].late_release -> worker[me].late_release = false; serve_release(me, false) }
  :: d_step { worker[me].late_release -> worker[me].late_release = false }
  :: d_step { worker[me].doorbell != NO_FENCE && !DOORBELL_ONLY -> silence(me) }
  od
}

/* ================================================================ workers */

#define my worker[me]

/* Believes from here on that it holds the lease. */
inline trust() {
  my.valid = true;
  other = 1;
  do
  :: other <= WORKERS ->
     promise(other == me || !worker[other].valid || worker[other].fence <= worker[other].broken_fence ||
             my.fence <= my.broken_fence, one_holder_at_a_time);
     other++
  :: else -> break
  od;
  other = 0
}

inline ask() {
  my.phase = asking; my.acquire = true; my.armed = NO_FENCE
}

/* At all primaries that it knows. `complete`: each could be reached. */
inline subscribe(complete) {
  my.listening = true; my.deaf = false; my.called = false;
  my.counted = (complete && my.knows && LISTEN_AT_EVERY_PRIMARY);
  my.subscribing = (!complete && LOOK_AGAIN)
}

inline ask_once_subscribed() {
  if
  :: ASK_ONCE_SUBSCRIBED -> ask()
  :: else
  fi
}

inline hold(granted_fence) {
  my.phase = holding; my.fence = granted_fence; my.armed = NO_FENCE;
  promise(lease_holder == me && lease_fence == my.fence || my.broken_fence >= my.fence, entered_only_while_granted);
  trust();
  silence(me)
}

inline leave() {
  my.names_place = (my.phase == holding -> RELEASE_DEQUEUES : LEAVE_DEQUEUES);
  my.phase = leaving; my.release = true;
  my.valid = false; my.fence = NO_FENCE; my.renewed = false; my.armed = NO_FENCE;
  silence(me)
}

inline forget_reply() {
  my.reply = none; my.reply_fence = NO_FENCE; my.in_time = false
}

inline abandon_acquire() {
  my.ambiguous = my.ambiguous || my.acquire || my.reply != none;
  my.late_acquires = my.late_acquires + my.acquire;
  my.acquire = false;
  forget_reply()
}

#define UNSUBSCRIBED (my.phase == waiting && (!my.listening || my.subscribing))

proctype Work(byte me) {
end:
  do
  :: d_step { my.phase == idle && (me == 1 || worker[me - 1].phase != idle) ->  /* in order: they are alike */
       if
       :: SUBSCRIBE_FIRST -> subscribe(true)
       :: else
       fi;
       ask() }

  /* ---- asking ---- */
  :: d_step { my.phase == asking && my.reply == granted && (my.in_time || !VALID_FROM_SEND) ->
       hold(my.reply_fence); forget_reply() }
  :: d_step { my.phase == asking && my.reply == granted && !my.in_time && VALID_FROM_SEND ->
       forget_reply(); ask() }   /* the answer took longer than the lease lives */
  :: d_step { my.phase == asking && my.reply == queued ->
       my.phase = waiting; my.armed = my.reply_fence; forget_reply() }
  :: d_step { my.phase == asking && my.reply == held ->
       if
       :: my.ambiguous && HELD_LEAVES -> leave()
       :: else -> my.phase = done; my.left = true
       fi;
       forget_reply() }
  :: d_step { my.phase == asking && my.acquire && my.late_acquires < LATE ->   /* no answer: sent again */
       my.late_acquires++; my.ambiguous = true }
  :: d_step { my.phase == asking && me <= WORKERS - PATIENT -> abandon_acquire(); leave() }

  /* ---- waiting ---- */
  :: d_step { my.phase == waiting && my.doorbell != NO_FENCE -> silence(me); my.called = true; ask() }
  :: d_step { my.phase == waiting && my.doorbell != NO_FENCE && !ENTER_WHEN_GRANTED -> hold(my.doorbell) }
  :: d_step { my.phase == waiting && TIMER && !DOORBELL_ONLY && (lease_holder == NOBODY || lease_fence != my.armed) ->
       ask() }
  :: d_step { my.phase == waiting && TIMER && early_left > 0 -> early_left--; ask() }
  :: d_step { UNSUBSCRIBED -> subscribe(true); ask_once_subscribed() }
  :: d_step { UNSUBSCRIBED && my.knows && misses_left > 0 -> misses_left--; subscribe(false); ask_once_subscribed() }
  :: d_step { my.phase == waiting && me <= WORKERS - PATIENT -> leave() }

  /* ---- holding, maybe no longer: a paused worker does not know ---- */
  :: d_step { my.phase == holding && SAVES && my.save == NO_FENCE -> my.save = my.fence }
  :: d_step { my.phase == holding && RENEWALS && my.renew == NO_FENCE -> my.renew = my.fence }
  :: d_step { my.phase == holding && my.renewed -> my.renewed = false; trust() }
  :: d_step { my.phase == holding && (LOST_LEAVES || my.valid) -> leave() }
  :: d_step { my.phase == holding && !LOST_LEAVES && !my.valid ->
       leave(); my.release = false; my.phase = done; my.left = true }

  /* ---- leaving ---- */
  :: d_step { my.phase == leaving && my.release && !my.late_release -> my.late_release = true }
  od
}

/* ================================================================ the world */

inline die() {
  deaths_left--;
  abandon_acquire();
  my.late_release = my.late_release || my.release;
  leave(); my.release = false;
  my.phase = dead
}

#define MORTAL (deaths_left > 0 && my.phase != idle && my.phase != done && my.phase != dead)

proctype Fate(byte me) {
end:
  do
  :: d_step { MORTAL -> die(); my.listening = false; my.counted = false; my.subscribing = false }  /* it is noticed */
  :: d_step { MORTAL -> die() }                         /* frozen, or cut off: its connection stays */
  :: d_step { cuts_left > 0 && my.listening && (my.phase == asking || my.phase == waiting) ->
       cuts_left--; my.listening = false; my.counted = false; my.was_cut = true }
  :: d_step { uncounted_left > 0 && my.listening && my.counted && (my.phase == asking || my.phase == waiting) ->
       uncounted_left--; my.counted = false }
  od
}

active proctype Lapse() {
end:
  do
  :: d_step { lease_holder != NOBODY &&
         (worker[lease_holder].phase == dead || worker[lease_holder].phase == done || lapses_left > 0) ->
       if
       :: worker[lease_holder].phase == dead ->
          promise(lease_asked || !lease_full, dead_waiter_costs_a_claim)
       :: worker[lease_holder].phase == done
       :: else -> lapses_left--
       fi;
       /* Its own clock has run out before the server's. */
       worker[lease_holder].valid = worker[lease_holder].valid && !VALID_FROM_SEND;
       worker[lease_holder].renewed = false;
       worker[lease_holder].in_time = false;
       lease_holder = NOBODY; lease_full = false; lease_asked = false }
  od
}

/* The run goes to another server, and nobody knows yet. */
inline move(is_primary, is_heard, breaks) {
  moves_left--;
  other = 1;
  do
  :: other <= WORKERS ->
     worker[other].knows = false;
     worker[other].counted = worker[other].counted && is_primary;
     worker[other].deaf = worker[other].listening && !is_heard;
     if
     :: breaks && worker[other].listening -> worker[other].listening = false; worker[other].subscribing = true
     :: else
     fi;
     other++
  :: else -> break
  od;
  other = 0
}

active proctype Topology() {
end:
  do
  :: d_step { moves_left > 0 -> move(true, true, false) }     /* the slot moves to another primary */
  :: d_step { moves_left > 0 -> move(false, true, false) }    /* roles are swapped: the old server is a replica */
  :: d_step { moves_left > 0 -> move(false, true, true) }     /* a replica is promoted: the old server is dead */
  :: d_step { moves_left > 0 && !DOORBELL_ONLY -> move(false, false, false) }  /* it has left, its connections stay */
  od
}

active proctype Operator() {
end:
  do
  :: d_step { breaks_left > 0 && head_holder != NOBODY ->  /* also one that lapsed */
       breaks_left--; break_target = head_holder; break_copies = 2 }
  :: d_step { break_copies > 0 -> serve_break() }
  od
}

/* Nothing can happen any more. */
active proctype End() {
end:
  atomic { timeout ->
    other = 1;
    do
    :: other <= WORKERS ->
       promise(worker[other].phase == done || worker[other].phase == dead, no_stuck_queue);
       other++
    :: else -> break
    od;
    other = 0 }
}

init {
  byte me;
  d_step {
    IGNORE;
    me = 1;
    do
    :: me <= WORKERS ->
       worker[me].phase = idle; worker[me].reply = none; worker[me].knows = true;
       worker[me].tries_once = (me == TRIES_ONCE);
       me++
    :: else -> break
    od;
    me = 0
  }
  atomic {
    for (me : 1 .. WORKERS) { run Network(me); run Work(me); run Fate(me) }
    me = 0
  }
}
