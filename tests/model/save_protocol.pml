/* Saves of one run: compare-and-set, retries, outcomes, fences, deletes, trimming, a failover.
 *
 * The server runs one script at a time (d_step). Copies of a request are delayed, overtaken, lost, or arrive after
 * their sender was answered; replies are lost; a worker gives up waiting at any moment; a lease lapses at any moment.
 *
 * Abstracted:
 * - Locking is one step that waits for a free lease; queue, hand-off, renew and copies of them: lease_protocol.pml.
 * - An etag is its save's ticket. Content is the set of the saves that it descends from. The log is left out: what is
 *   compared and remembered is the head and the list of etags. Of checkpoints only the trimming is left.
 * - The server's clock stands still: that fences rise is up to the head alone. After a raw DEL it is at the highest
 *   fence, where it does the most harm.
 * - A reply that was lost is a copy that arrives late. `resolve` has no copies: it may be repeated as it is.
 * - A first copy of a save that has a parent does not arrive after so many others that the list has forgotten it
 *   (FORGET): it would be told a conflict. Resends, and copies of a run's first save, come at any time.
 * - Marks last, keys have no lifetime but the lease's; damage, memory and permissions: the tests of the scripts.
 */

/* ---- the size of the world ---- */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef SAVES_EACH
#define SAVES_EACH 2     /* saves of each worker, in one turn or in several */
#endif
#ifndef SENDS
#define SENDS 2          /* of one save, before its worker resolves it */
#endif
#ifndef COPIES
#define COPIES 0         /* that a proxy makes of each first send; they arrive before it, after it, or never */
#endif
#ifndef UNLEASED
#define UNLEASED 0       /* the worker of that number saves without locking */
#endif
#ifndef DELETES
#define DELETES 0        /* 1: somebody without a lease deletes the run once   2: by force   each sent twice */
#endif
#ifndef TRIM
#define TRIM 0           /* 1: a checkpoint trims the log */
#endif
#ifndef FORGET
#define FORGET 0         /* 1: so many saves pass that the list of etags forgets all but the head's */
#endif
#ifndef RAW_DELETE
#define RAW_DELETE 0     /* 1: all keys vanish once (DEL, FLUSHALL, expiry) */
#endif
#ifndef FAILOVER
#define FAILOVER 0       /* 1: once all keys are as they were before, on another server */
#endif
#ifndef IGNORE
#define IGNORE skip      /* such as `fenced = 1`: that promise is not watched */
#endif

/* ---- the guards: 0 takes one out ---- */
#ifndef COMPARE
#define COMPARE 2                         /* 2: etags   1: version numbers   0: nothing */
#endif
#ifndef REMEMBER
#define REMEMBER 3                        /* what was saved: 3 a list of etags  2 the last one  1 by version  0 none */
#endif
#ifndef REMEMBER_OUTLIVES_TRIM
#define REMEMBER_OUTLIVES_TRIM 1          /* 0: what was saved is looked for in the log */
#endif
#ifndef LOOKS
#define LOOKS 2                           /* before a refusal is told: 2 every request  1 only resends  0 none */
#endif
#ifndef ABSENT_LOOKS
#define ABSENT_LOOKS 1                    /* what finds the run absent looks before it is applied */
#endif
#ifndef ORIGIN
#define ORIGIN 1                          /* the head names the run's first save */
#endif
#ifndef DELETE_MARKS_ORIGIN
#define DELETE_MARKS_ORIGIN 1             /* and a mark that of a run that was deleted */
#endif
#ifndef GONE_IS_TOLD
#define GONE_IS_TOLD 1                    /* a resend that the list does not reach is no conflict */
#endif
#ifndef GONE_FIRST
#define GONE_FIRST 1                      /* nor is it told of a mark or a lease: they would deny the save */
#endif
#ifndef MARK_LEASE
#define MARK_LEASE 1                      /* of a resend that was refused for a lease */
#endif
#ifndef MARK_CONFLICT
#define MARK_CONFLICT 1                   /* of a resend that was refused by the compare */
#endif
#ifndef MARK_LOCKED
#define MARK_LOCKED 1                     /* of a first send that was locked out: the lease ends, the head stays */
#endif
#ifndef MARK_FIRST
#define MARK_FIRST 1                      /* of a run's first save, also its first send: the run may be deleted */
#endif
#ifndef RESOLVE_MARKS
#define RESOLVE_MARKS 1
#endif
#ifndef SAVE_KEEPS_MARKS
#define SAVE_KEEPS_MARKS 1
#endif
#ifndef GRANT_WRITES_HEAD
#define GRANT_WRITES_HEAD 1               /* an older holder is fenced from the grant on, not from the next save on */
#endif
#ifndef SAVE_COMPARES_FENCE
#define SAVE_COMPARES_FENCE 1
#endif
#ifndef SAVE_COMPARES_HOLDER
#define SAVE_COMPARES_HOLDER 1            /* two grants may have one fence, in one millisecond around a raw DEL */
#endif
#ifndef LEASE_LOCKS
#define LEASE_LOCKS 1                     /* who carries no lease is refused while one lives */
#endif
#ifndef DELETE_COMPARES
#define DELETE_COMPARES 1
#endif
#ifndef DELETE_KEEPS_ETAGS
#define DELETE_KEEPS_ETAGS 1
#endif
#ifndef DELETE_KEEPS_FENCE
#define DELETE_KEEPS_FENCE 1
#endif
#ifndef DELETE_MARKS
#define DELETE_MARKS 1                    /* of a resend that was refused */
#endif
#ifndef FORCE_FENCES
#define FORCE_FENCES 1                    /* by force: above every lease that was granted */
#endif
#ifndef FORCE_ONCE
#define FORCE_ONCE 1                      /* a copy that finds the run absent asks the list, and is listed */
#endif
#ifndef REQUESTS_DIE_WITH_SERVER
#define REQUESTS_DIE_WITH_SERVER 1        /* 0: a proxy replays them to the next one */
#endif

#define SAVES (WORKERS * SAVES_EACH)
#define DELETE (SAVES + 1)                /* its ticket */
#define ABSENT 0
#define NOBODY 0

/* ---- what must hold: an assertion violated names one of these ---- */
hidden byte
  no_lost_update,                 /* a save replaces the state that it descends from, no other */
  at_most_once,
  acknowledged_is_applied,
  refused_was_not_applied,
  refused_stays_refused,          /* after a refusal was told, no copy is applied */
  first_save_is_known,            /* nobody is told that it cannot be known whether a run's first save was applied */
  holder_is_never_refused,        /* who holds the newest lease, unlapsed, may save */
  fenced,                         /* once a fence is granted, no save with a lower one is applied */
  fences_rise,
  lease_shuts_out,                /* while a lease lives, nobody else saves */
  delete_takes_what_it_read,
  delete_is_done_once;            /* after a delete was answered, no copy of it does anything */

inline promise(kept, name) {
  if
  :: kept
  :: else -> assert(name)         /* a promise is no variable: it is 0, so that spin prints its name */
  fi
}

/* ---- requests, by ticket ---- */
mtype:copy = { no_copy, first, resend };
mtype:answer = { none, saved, deleted, cancelled, locked, lost, conflict, gone, settled };

typedef Request {
  byte parent, version, content;  /* what its sender has seen; version is compared only if etags are not */
  byte fence, holder;             /* of the lease that it carries */
  mtype:copy awaited;             /* the copy whose reply its sender awaits */
  mtype:answer told;
  byte late_firsts, late_resends; /* copies without a listener */

  /* what only the checker knows */
  byte applied;
  bool closed                     /* its sender knows that it is not, or never will be, applied */
};
Request request[SAVES + 2];

/* ---- what the server stores ---- */
byte head_etag, head_version, head_content, head_fence, head_holder;
byte lease_holder, lease_fence;
bool listed[SAVES + 2], list_is_whole = true, marked[SAVES + 2];
bool ended[SAVES + 2];            /* a mark, too: it was the first save of a run that was deleted */
byte last_listed, origin;

/* what only the checker knows */
byte highest_fence, highest_holder, clock;
bool rewound;

/* of one step each */
hidden byte answer, refused, next, i, known;

/* ================================================================ scripts */

inline grant(who) {
  next = (GRANT_WRITES_HEAD -> head_fence : highest_fence) + 1;
  next = (next < clock -> clock : next);
  promise(next > highest_fence || rewound, fences_rise);
  highest_fence = next; highest_holder = who;
  lease_holder = who; lease_fence = next;
  if
  :: GRANT_WRITES_HEAD -> head_fence = next; head_holder = who
  :: else
  fi
}

inline look_whether_remembered(ticket) {
  if
  :: REMEMBER == 3 && listed[ticket] -> answer = saved
  :: REMEMBER == 2 && last_listed == ticket -> answer = saved
  :: REMEMBER == 1 && head_version > request[ticket].version -> answer = saved
  :: REMEMBER > 1 && ticket != DELETE && request[ticket].parent == ABSENT &&
       (ORIGIN && origin == ticket || ended[ticket]) -> answer = saved
  :: else
  fi
}

/* Can the list, or the head, tell whether a save or delete was done? */
inline look_whether_it_is_known(ticket) {
  known = (request[ticket].parent == ABSENT -> ORIGIN || list_is_whole :
    listed[request[ticket].parent] || head_etag == request[ticket].parent)
}

/* Each refusal says that nothing was written. */
inline refuse(ticket, is_resend) {
  refused = answer;
  if
  :: LOOKS == 2 || LOOKS == 1 && is_resend -> look_whether_remembered(ticket)
  :: else
  fi;
  look_whether_it_is_known(ticket);
  if
  :: answer == saved -> answer = (ticket == DELETE -> deleted : saved)
  :: answer != saved && is_resend && !known && GONE_IS_TOLD && (GONE_FIRST || answer == conflict) -> answer = gone
  :: else
  fi
}

inline mark(ticket, is_resend) {
  marked[ticket] = marked[ticket] ||
    (is_resend && (answer == conflict || answer == gone -> MARK_CONFLICT : MARK_LEASE)) ||
    (answer == locked && MARK_LOCKED) || (request[ticket].parent == ABSENT && MARK_FIRST)
}

inline look_at_lease(ticket) {
  if
  :: request[ticket].holder == NOBODY && lease_holder != NOBODY && LEASE_LOCKS -> answer = locked
  :: request[ticket].holder != NOBODY && lease_holder != NOBODY &&
       !(lease_holder == request[ticket].holder && lease_fence == request[ticket].fence) -> answer = lost
  :: else
  fi;
  if
  :: answer == none && request[ticket].holder != NOBODY && SAVE_COMPARES_FENCE &&
       (request[ticket].fence < head_fence ||
        SAVE_COMPARES_HOLDER && request[ticket].fence == head_fence && head_holder != request[ticket].holder) ->
     answer = lost
  :: else
  fi
}

inline serve_save(ticket, is_resend, is_awaited) {
  answer = none;
  if
  :: head_etag == ABSENT && ABSENT_LOOKS -> look_whether_remembered(ticket)
  :: else
  fi;
  look_whether_it_is_known(ticket);
  if
  :: answer == none && head_etag == ABSENT && is_resend && !known && GONE_IS_TOLD -> answer = gone
  :: else
  fi;
  if
  :: answer == none -> look_at_lease(ticket)
  :: else
  fi;
  if
  :: answer == none &&
       (COMPARE == 2 && request[ticket].parent != head_etag ||
        COMPARE == 1 && request[ticket].version != head_version) -> answer = conflict
  :: else
  fi;
  if
  :: answer == none && marked[ticket] -> answer = cancelled
  :: answer == locked || answer == lost || answer == conflict -> refuse(ticket, is_resend)
  :: else
  fi;

  if
  :: answer == none ->
     promise(request[ticket].content == head_content, no_lost_update);
     promise(request[ticket].applied == 0, at_most_once);
     promise(!request[ticket].closed, refused_stays_refused);
     origin = (head_etag == ABSENT -> ticket : origin);
     promise(request[ticket].holder == NOBODY || rewound || request[ticket].fence > highest_fence ||
             request[ticket].fence == highest_fence && request[ticket].holder == highest_holder, fenced);
     promise(lease_holder == NOBODY || lease_holder == request[ticket].holder, lease_shuts_out);
     head_etag = ticket; head_version++; head_content = head_content | (1 << ticket);
     listed[ticket] = true; last_listed = ticket;
     request[ticket].applied++;
     if
     :: request[ticket].holder != NOBODY -> head_fence = request[ticket].fence; head_holder = request[ticket].holder
     :: else
     fi;
     if
     :: !SAVE_KEEPS_MARKS ->
        i = 1;
        do
        :: i <= SAVES -> marked[i] = false; i++
        :: else -> break
        od
     :: else
     fi;
     answer = saved
  :: answer == locked || answer == lost || answer == conflict || answer == gone -> mark(ticket, is_resend)
  :: else
  fi;

  promise(answer == saved || lease_holder == NOBODY || lease_holder != request[ticket].holder ||
          lease_fence != request[ticket].fence || request[ticket].applied > 0 || request[ticket].closed || rewound,
          holder_is_never_refused);
  if
  :: is_awaited -> request[ticket].awaited = no_copy; tell(ticket)
  :: else
  fi;
  tidy(ticket)
}

/* The sender reads the answer. */
inline tell(ticket) {
  request[ticket].told = answer;
  if
  :: answer == saved -> promise(request[ticket].applied == 1, acknowledged_is_applied)
  :: answer == deleted
  :: answer == gone ->
     promise(request[ticket].parent != ABSENT || rewound, first_save_is_known);
     request[ticket].closed = true
  :: else -> promise(request[ticket].applied == 0, refused_was_not_applied); request[ticket].closed = true
  fi
}

/* What nothing depends on any more is not told apart. */
inline tidy(ticket) {
  if
  :: request[ticket].told != none && request[ticket].late_firsts == 0 && request[ticket].late_resends == 0 ->
     request[ticket].parent = 0; request[ticket].version = 0; request[ticket].content = 0;
     request[ticket].fence = 0; request[ticket].holder = 0
  :: else
  fi
}

inline serve_resolve(ticket) {
  answer = none;
  look_whether_remembered(ticket);
  if
  :: answer == none ->
     marked[ticket] = marked[ticket] || RESOLVE_MARKS;
     look_whether_it_is_known(ticket);
     answer = (known || !GONE_IS_TOLD -> cancelled : gone)
  :: else
  fi;
  tell(ticket);
  tidy(ticket)
}

inline fence_off() {
  promise(request[DELETE].told == none, delete_is_done_once);
  if
  :: FORCE_FENCES -> head_fence++
  :: else
  fi;
  highest_fence++; highest_holder = NOBODY; head_holder = NOBODY; lease_holder = NOBODY; lease_fence = 0
}

inline serve_delete(is_resend, is_awaited) {
  answer = none;
  if
  :: listed[DELETE] && FORCE_ONCE && head_etag == ABSENT -> answer = deleted
  :: else
  fi;
  if
  :: answer == none && head_etag == ABSENT ->
     if
     :: DELETES == 2 && (lease_holder != NOBODY || head_fence > 0) -> fence_off()
     :: else
     fi;
     listed[DELETE] = (DELETES == 2 && FORCE_ONCE);
     answer = deleted
  :: else
  fi;
  if
  :: answer == none && DELETES == 1 && lease_holder != NOBODY -> answer = locked
  :: else
  fi;
  if
  :: answer == none && DELETE_COMPARES && head_etag != request[DELETE].parent -> answer = conflict
  :: answer == none && marked[DELETE] -> answer = cancelled
  :: else
  fi;
  if
  :: answer == cancelled || answer == locked || answer == conflict -> refuse(DELETE, is_resend)
  :: else
  fi;
  if
  :: answer == none ->
     promise(request[DELETE].told == none, delete_is_done_once);
     promise(request[DELETE].content == head_content, delete_takes_what_it_read);
     ended[origin] = DELETE_MARKS_ORIGIN && origin != 0;
     head_etag = ABSENT; head_version = 0; head_content = 0; origin = 0;
     if
     :: !DELETE_KEEPS_ETAGS ->
        i = 1; last_listed = 0;
        do
        :: i <= SAVES -> listed[i] = false; ended[i] = false; i++
        :: else -> break
        od
     :: else
     fi;
     listed[DELETE] = true; request[DELETE].applied = true;
     if
     :: !DELETE_KEEPS_FENCE -> head_fence = 0; head_holder = NOBODY
     :: else
     fi;
     if
     :: DELETES == 2 && (lease_holder != NOBODY || head_fence > 0) -> fence_off()
     :: else
     fi;
     answer = deleted
  :: answer == locked || answer == conflict || answer == gone ->
     marked[DELETE] = marked[DELETE] || ((is_resend || answer == locked) && DELETE_MARKS)
  :: else
  fi;
  if
  :: is_awaited -> request[DELETE].awaited = no_copy; tell(DELETE)
  :: else
  fi;
  tidy(DELETE)
}

inline serve(ticket, is_resend, is_awaited) {
  if
  :: ticket == DELETE -> serve_delete(is_resend, is_awaited)
  :: else -> serve_save(ticket, is_resend, is_awaited)
  fi
}

/* The server takes whichever copy arrives next; late ones may also never arrive. */
proctype Network(byte ticket) {
end:
  do
  :: d_step { request[ticket].awaited == first -> serve(ticket, false, true) }
  :: d_step { request[ticket].awaited == resend -> serve(ticket, true, true) }
  :: d_step { request[ticket].late_firsts > 0 -> request[ticket].late_firsts--; serve(ticket, false, false) }
  :: d_step { request[ticket].late_resends > 0 -> request[ticket].late_resends--; serve(ticket, true, false) }
  od
}

/* ================================================================ senders */

/* Sends again until there is an answer, or enough was sent. */
inline retry(ticket) {
  sends = 1;
  do
  :: request[ticket].told != none || sends > SENDS -> break
  :: d_step { request[ticket].told == none && sends <= SENDS ->
       request[ticket].late_firsts = request[ticket].late_firsts + (request[ticket].awaited == first);
       request[ticket].late_resends = request[ticket].late_resends + (request[ticket].awaited == resend);
       request[ticket].awaited = (sends < SENDS -> resend : no_copy);
       sends++ }
  od
}

inline send() {
  request[ticket].parent = parent; request[ticket].version = version; request[ticket].content = content;
  request[ticket].fence = fence; request[ticket].holder = holder;
  request[ticket].awaited = first; request[ticket].late_firsts = COPIES;
  goes_on = false
}

proctype Worker(byte me) {
  byte ticket, holder, fence, parent, version, content, sends;
  bool goes_on;

  for (ticket : (me - 1) * SAVES_EACH + 1 .. me * SAVES_EACH) {
    if
    :: d_step { !goes_on && me != UNLEASED && lease_holder == NOBODY ->
         grant(ticket); holder = ticket; fence = lease_fence };
       d_step { parent = head_etag; version = head_version; content = head_content; send() }
    :: d_step { !goes_on && me == UNLEASED ->
         parent = head_etag; version = head_version; content = head_content; send() }
    :: d_step { goes_on -> send() }
    fi;
    retry(ticket);
    sends = 0;
    d_step {                              /* no choice in it, or what is hidden is mixed up when spin comes back */
      if
      :: request[ticket].told == none -> serve_resolve(ticket)
      :: else
      fi
    };
    atomic {
      if
      :: request[ticket].told == saved ->   /* several saves in one turn: on from its own, under the same lease */
         goes_on = true; parent = ticket; version++; content = content | (1 << ticket)
      :: true ->                            /* the turn is over */
         lease_holder = (holder != NOBODY && lease_holder == holder -> NOBODY : lease_holder);
         lease_fence = (lease_holder == NOBODY -> 0 : lease_fence);
         head_holder = (holder != NOBODY && head_holder == holder -> NOBODY : head_holder);
         goes_on = false; holder = NOBODY; fence = 0; parent = 0; version = 0; content = 0
      fi;
      request[ticket].told = settled
    }
  }
}

proctype Deleter() {
  byte sends;
  d_step {
    request[DELETE].parent = head_etag; request[DELETE].content = head_content; request[DELETE].awaited = first;
    request[DELETE].late_firsts = COPIES
  };
  retry(DELETE);
  sends = 0
}

/* ================================================================ the world */

active proctype Lapse() {
end:
  do
  :: d_step { lease_holder != NOBODY -> lease_holder = NOBODY; lease_fence = 0 }
  od
}

#if TRIM
active proctype Trim() {
  d_step {
    i = 1;
    do
    :: i <= SAVES -> listed[i] = listed[i] && (REMEMBER_OUTLIVES_TRIM || i == head_etag); i++
    :: else -> break
    od;
    i = 0
  }
}
#endif

#if FORGET
active proctype Forget() {
end:
  d_step {
    head_version > 1 ->
    i = 1; list_is_whole = false;
    do
    :: i <= SAVES + 1 ->
       if
       :: listed[i] && i != head_etag && request[i].parent != ABSENT ->
          request[i].late_firsts = 0;
          request[i].awaited = (request[i].awaited == first -> no_copy : request[i].awaited)
       :: else
       fi;
       listed[i] = listed[i] && i == head_etag;
       i++
    :: else -> break
    od;
    i = 0
  }
}
#endif

#if RAW_DELETE
active proctype Raw_delete() {
  d_step {
    head_etag = ABSENT; head_version = 0; head_content = 0; head_fence = 0; head_holder = NOBODY; origin = 0;
    lease_holder = NOBODY; lease_fence = 0; last_listed = 0; list_is_whole = true;
    i = 1;
    do
    :: i <= SAVES + 1 ->
       listed[i] = false; marked[i] = false; ended[i] = false;
       request[i].applied = 0; request[i].closed = false;  /* with its memory the promise is gone */
       i++
    :: else -> break
    od;
    clock = highest_fence; highest_fence = 0; highest_holder = NOBODY; i = 0
  }
}
#endif

#if FAILOVER
typedef Replica {
  byte head_etag, head_version, head_content, head_fence, head_holder, lease_holder, lease_fence, last_listed, origin;
  bool list_is_whole, listed[SAVES + 2], marked[SAVES + 2], ended[SAVES + 2], applied[SAVES + 2]
};
Replica replica;

active proctype Failover() {
  d_step {                        /* the replica lags from here on */
    replica.head_etag = head_etag; replica.head_version = head_version; replica.head_content = head_content;
    replica.head_fence = head_fence; replica.head_holder = head_holder;
    replica.lease_holder = lease_holder; replica.lease_fence = lease_fence; replica.last_listed = last_listed;
    replica.list_is_whole = list_is_whole; replica.origin = origin;
    i = 1;
    do
    :: i <= SAVES + 1 ->
       replica.listed[i] = listed[i]; replica.marked[i] = marked[i]; replica.ended[i] = ended[i];
       replica.applied[i] = request[i].applied;
       i++
    :: else -> break
    od;
    i = 0
  };
  d_step {
    head_etag = replica.head_etag; head_version = replica.head_version; head_content = replica.head_content;
    head_fence = replica.head_fence; head_holder = replica.head_holder;
    lease_holder = replica.lease_holder; lease_fence = replica.lease_fence; last_listed = replica.last_listed;
    list_is_whole = replica.list_is_whole; origin = replica.origin; replica.origin = 0;
    replica.head_etag = 0; replica.head_version = 0; replica.head_content = 0; replica.head_fence = 0;
    replica.head_holder = 0; replica.lease_holder = 0; replica.lease_fence = 0; replica.last_listed = 0;
    replica.list_is_whole = false;
    i = 1;
    do
    :: i <= SAVES + 1 ->
       listed[i] = replica.listed[i]; marked[i] = replica.marked[i]; ended[i] = replica.ended[i];
       request[i].applied = replica.applied[i];
       replica.listed[i] = false; replica.marked[i] = false; replica.ended[i] = false; replica.applied[i] = false;
       if
       :: REQUESTS_DIE_WITH_SERVER ->
          request[i].awaited = no_copy; request[i].late_firsts = 0; request[i].late_resends = 0
       :: else
       fi;
       i++
    :: else -> break
    od;
    i = 0; rewound = true
  }
}
#endif

init {
  byte n;
  d_step {
    IGNORE;
    n = 1;
    do
    :: n <= SAVES + 1 -> request[n].awaited = no_copy; request[n].told = none; n++
    :: else -> break
    od;
    n = 0
  }
  atomic {
    for (n : 1 .. SAVES + (DELETES > 0)) { run Network(n) }
    for (n : 1 .. WORKERS) { run Worker(n) }
    if
    :: DELETES > 0 -> run Deleter()
    :: else
    fi;
    n = 0
  }
}
