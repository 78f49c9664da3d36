"""SQLAlchemy, unmodified, over both drivers: tables made and looked up, objects kept, transactions, what the catalog tells."""

import datetime
import decimal
import os

import sqlalchemy
from sqlalchemy import create_engine, delete, func, inspect, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sqlalchemy.String(40), index=True)
    balance: Mapped[decimal.Decimal] = mapped_column(sqlalchemy.Numeric(10, 2))
    born: Mapped[datetime.date | None]
    active: Mapped[bool]


for driver in ("psycopg", "psycopg2"):
    engine = create_engine(f"postgresql+{driver}://regroup@127.0.0.1:{os.environ['PGPORT']}/regroup", pool_size=5, pool_pre_ping=True)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    # A second time finds them there.
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(
            Person(id=number, name=f"person {number}", balance=decimal.Decimal(number) / 4, born=None, active=number % 2 == 0)
            for number in range(1, 201)
        )
        session.commit()
        session.add(Person(id=1, name="again", balance=0, born=None, active=True))
        try:
            session.commit()
            raise AssertionError("a duplicate key")
        except IntegrityError:
            session.rollback()
        person = session.get(Person, 7)
        person.born = datetime.date(1999, 12, 31)
        person.balance += 1
        session.commit()
        session.expire_all()
        person = session.get(Person, 7)
        assert (person.born, person.balance) == (datetime.date(1999, 12, 31), decimal.Decimal("2.75")), person.balance
        names = session.scalars(select(Person.name).where(Person.active, Person.id > 190).order_by(Person.id.desc()).limit(2)).all()
        assert names == ["person 200", "person 198"], names
        total, count = session.execute(select(func.sum(Person.balance), func.count()).where(Person.id <= 4)).one()
        assert (total, count) == (decimal.Decimal("2.50"), 4), (total, count)
        session.execute(update(Person).where(Person.id == 8).values(name="eight"))
        session.execute(delete(Person).where(Person.id > 100))
        with session.begin_nested():
            session.execute(update(Person).where(Person.id == 9).values(name="nine"))
        upsert = insert(Person).values(id=8, name="x", balance=0, active=True)
        upsert = upsert.on_conflict_do_update(index_elements=[Person.id], set_={"name": "upserted"}).returning(Person.name)
        assert session.execute(upsert).scalar_one() == "upserted"
        session.commit()
        assert session.scalar(select(func.count()).select_from(Person)) == 100
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM person WHERE id = :id FOR UPDATE"), {"id": 9}).scalar_one() == "nine"
    catalog = inspect(engine)
    assert catalog.has_table("person") and not catalog.has_table("nobody")
    Base.metadata.drop_all(engine)
    engine.dispose()
    print("SQLAlchemy", sqlalchemy.__version__, "over", driver, "ok")
